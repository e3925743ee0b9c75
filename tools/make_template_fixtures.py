#!/usr/bin/env python3
"""Writes src/text/testdata/templates.json: chat templates with what Jinja2 renders for them.

Needs jinja2. The environment is that of transformers: sandboxed, trim_blocks, lstrip_blocks, loop controls, its own
tojson. A case whose template raises is written with "error": true. Run it again after adding a case.
"""
import json
import pathlib
from datetime import datetime, timezone

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime(2024, 7, 26, 12, 0, tzinfo=timezone.utc)


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


MESSAGES = [
    {"role": "system", "content": "  Be brief.\n"},
    {"role": "user", "content": "Hello <b>\"w'orld\"</b> é漢😀"},
    {"role": "assistant", "content": "Hi", "tool_calls": [
        {"type": "function", "id": "a1", "function": {"name": "get", "arguments": {"q": "x y", "n": 3, "f": 1.5, "deep": [1, None, True]}}}]},
    {"role": "tool", "name": "get", "content": "{\"r\": 1}"},
    {"role": "assistant", "content": "<think>why\nnot</think>\n\nDone."},
    {"role": "user", "content": "Thanks"},
]
TOOLS = [{"type": "function", "function": {"name": "get", "description": "Gets \"it\" <now>",
          "parameters": {"type": "object", "properties": {"q": {"type": "string", "enum": ["a", "é"]}, "n": {"type": "integer"}}, "required": ["q"]}}}]
KWARGS = {"s": "Hello World", "u": "äöü ß ΑΣ 漢字 😀", "n": 7, "neg": -7, "f": 2.5, "t": True, "no": None, "e": "", "l": [3, 1, 2], "w": ["b", "A", "c", "a"],
          "d": {"b": 1, "a": [1, 2], "C": {"x": None}}, "lines": "one\n  two\n\nthree", "mixed": [1, "a", None, 2.0, True, {"k": "v"}], "big": 1e20, "small": 1e-7,
          "people": [{"name": "Bo", "age": 30, "tags": ["x"]}, {"name": "al", "age": 5}, {"name": "Cy", "age": 30, "tags": []}], "sp": " \t x \n", "q": "it's \"q\" \\ \n\x01\x7f"}

SNIPPETS = r"""
{{ s }}|{{ u }}|{{ n }}|{{ neg }}|{{ f }}|{{ t }}|{{ no }}|{{ e }}
{{ l }}|{{ d }}|{{ mixed }}|{{ q }}|{{ [q] }}
{{ big }} {{ small }} {{ 1.0 }} {{ 100000.0 }} {{ 1e16 }} {{ 123456789012345.6 }} {{ 0.1 + 0.2 }} {{ -0.0 }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ neg // 2 }} {{ neg % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ -n }} {{ +n }} {{ not n }} {{ not e }} {{ -2 ** 2 }} {{ 1 - -1 }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ none == none }} {{ no is none }}
{{ 'ell' in s }} {{ 3 in l }} {{ 'a' in d }} {{ 'z' not in d }} {{ 'x' in missing }} {{ 1 in [true] }}
{{ n ~ s ~ none ~ true ~ 1.5 ~ l }} {{ 'a' 'b' }} {{ 'a' + 'b' }} {{ 'ab' * 3 }} {{ 2 * 'x' }} {{ [1] * 2 + [3] }}
{{ s if t else e }} {{ e or 'other' }} {{ t and 'yes' }} {{ 'only' if no }}| {{ 1 if no else 2 if e else 3 }}
{{ s[0] }} {{ s[-1] }} {{ s[1:4] }} {{ s[:-3] }} {{ s[::-1] }} {{ s[::2] }} {{ u[-2:] }} {{ u[2:5] }} {{ l[1:] }} {{ l[::-1] }} {{ l[-1] }} {{ l[5:] }} {{ s[10:2] }} {{ l[9] }}|
{{ s[-100:3] }} {{ l[100:-100:-1] }} {{ l[:0:-1] }} {{ (1, 2, 3)[1:] }} {{ (1,) }} {{ () }}
{{ d.b }} {{ d['a'] }} {{ d.a[0] }} {{ d.C.x }} {{ d.zz }}| {{ d['zz'] }}| {{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 5) }} {{ l.0 }}
{{ {'a': 1, 'b': [1, {'c': none}]} }} {{ {} }} {{ [] }} {{ {'a': 1, 'a': 2} }} {{ {1: 'x', none: 2} }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }}{% endfor %} {{ d.keys() | list }} {{ d.values() | list }}
{% for k, v in d | items %}{{ k }}{{ loop.last }}{% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }};{% endfor %}
{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}{{ loop.cycle('a', 'b') }} {% endfor %}
{% for x in [] %}x{% else %}none{% endfor %}{% for x in l if x > 1 %}{{ x }}{{ loop.length }}{% else %}no{% endfor %}{% for x in l if x > 9 %}x{% else %}no{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %} {% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% for y in w %}{{ loop.index }}{{ y }}{% endfor %}{{ loop.index }}{% endfor %} {% for c in u %}{{ c }}.{% endfor %}
{% for x in missing %}x{% else %}empty{% endfor %} {% for a, b in [[1, 2], (3, 4)] %}{{ a + b }},{% endfor %}
{% set x = 5 %}{{ x }}{% set x = x + 1 %}{{ x }} {% set a, b = 1, 2 %}{{ a }}{{ b }} {% set z = 1, 2 %}{{ z }}
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{% endfor %}{{ x }}{% if t %}{% set x = 9 %}{% endif %}{{ x }}
{% set ns = namespace(x=1, y='a') %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.zz }}|
{% set ns = namespace() %}{% set ns.list = [] %}{% for i in l %}{% set ns.list = ns.list + [i * 2] %}{% endfor %}{{ ns.list }}
{% set block %}a{{ n }}b{% endset %}{{ block }}{{ block | length }} {% set up | upper | trim %} {{ s }} {% endset %}[{{ up }}]
{% macro m(a, b='d', c=none) %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(1, c=3) }}{{ m(a=0) }}{{ m() }}{{ m('x') | upper }}
{% macro fact(k) %}{% if k <= 1 %}1{% else %}{{ k * (fact(k - 1) | int) }}{% endif %}{% endmacro %}{{ fact(5) }}
{% macro outer() %}{{ n }}{{ s }}{% endmacro %}{% set s = 'new' %}{{ outer() }}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}|
{% if no %}a{% elif e %}b{% elif n > 3 and not no %}c{% else %}d{% endif %}{% if missing %}x{% endif %}{% if missing is defined %}y{% else %}z{% endif %}
{{ s is defined }} {{ zz is defined }} {{ zz is undefined }} {{ no is none }} {{ s is string }} {{ n is string }} {{ d is mapping }} {{ l is mapping }} {{ l is iterable }} {{ s is iterable }} {{ n is iterable }}
{{ n is number }} {{ f is number }} {{ t is number }} {{ s is number }} {{ t is boolean }} {{ n is boolean }} {{ t is true }} {{ t is false }} {{ n is true }} {{ l is sequence }} {{ s is sequence }} {{ d is sequence }} {{ n is sequence }}
{{ n is integer }} {{ t is integer }} {{ f is float }} {{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ n is eq 7 }} {{ n is equalto(7) }} {{ n is ne 7 }} {{ n is gt 3 }} {{ n is lt 3 }} {{ n is ge 7 }} {{ n is le(6) }} {{ n is in [7] }} {{ n is not in [7] }} {{ n is sameas n }} {{ no is sameas none }}
{{ s is not none and s is not number }} {{ 1 + 1 is odd }} {{ not zz is defined }} {{ s is lower }} {{ 'abc' is lower }} {{ 'ABC' is upper }} {{ range is callable }} {{ s is callable }}
{{ sp | trim }}| {{ '--a-'| trim('-') }}| {{ s | upper }} {{ s | lower }} {{ u | upper }} {{ u | lower }} {{ 'hELLO wORLD' | capitalize }} {{ 'hello wORLD-foo (bar' | title }} {{ "it's o'neil".title() }}
{{ s | length }} {{ u | length }} {{ l | length }} {{ d | length }} {{ l | count }} {{ zz | length }} {{ e | length }}
{{ l | join }} {{ l | join(', ') }} {{ [1, none, 'x', true] | join('-') }} {{ people | join(',', attribute='name') }} {{ 'abc' | join('.') }} {{ ', '.join(w) }} {{ '' | join }}|
{{ zz | default('D') }} {{ zz | default }}| {{ no | default('D') }} {{ no | default('D', true) }} {{ e | d('D', boolean=true) }} {{ zz | default(zz2) | default('last') }} {{ zz.y | default('q') if zz else 'r' }}
{{ s | replace('o', '0') }} {{ s | replace('l', 'L', 1) }} {{ 'aaa' | replace('', '-') }} {{ s.replace('World', 'You') }} {{ s.replace('l', '', 2) }} {{ 'abc'.replace('', '.') }}
{{ l | first }} {{ l | last }} {{ s | first }} {{ s | last }} {{ [] | first }}| {{ u | last }} {{ l | min }} {{ l | max }} {{ l | sum }} {{ people | sum(attribute='age') }} {{ w | min }} {{ w | max }}
{{ s | list }} {{ d | list }} {{ l | list }} {{ 5 | string + 'x' }} {{ (1, 2) | list }} {{ none | string }} {{ 1.50 | string }}
{{ '42' | int }} {{ ' 42 ' | int }} {{ 'x' | int }} {{ 'x' | int(-1) }} {{ '3.9' | int }} {{ 3.9 | int }} {{ -3.9 | int }} {{ true | int }} {{ 'ff' | int(0, 16) }} {{ none | int }} {{ '1.5' | float }} {{ 'z' | float }} {{ 3 | float }} {{ '1e3' | float }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.567 | round(2) }} {{ 2.561 | round(2, 'ceil') }} {{ 2.569 | round(2, 'floor') }} {{ 7 | round }} {{ -2.5 | abs }} {{ neg | abs }} {{ 1234.5 | round(-2) }} {{ 2.675 | round(2) }}
{{ people | map(attribute='name') | list }} {{ w | map('upper') | list }} {{ people | map(attribute='tags', default='-') | list }} {{ w | map('replace', 'a', 'Z') | join }} {{ [[1, 2], [3]] | map('first') | list }} {{ people | map(attribute='tags.0', default='none') | list }}
{{ people | selectattr('age', 'equalto', 30) | map(attribute='name') | list }} {{ people | selectattr('tags') | list | length }} {{ people | rejectattr('tags') | map(attribute='name') | join }} {{ people | selectattr('tags', 'defined') | list | length }} {{ people | rejectattr('age', 'gt', 10) | list }} {{ people | selectattr('name', 'in', ['al', 'Cy']) | map(attribute='age') | list }}
{{ l | select('odd') | list }} {{ l | reject('odd') | list }} {{ [0, 1, '', 'x', none] | select | list }} {{ [0, 1, ''] | reject | list }} {{ mixed | select('string') | list }} {{ l | select('gt', 1) | list }} {{ l | select('>', 1) | list }} {{ mixed | select('number') | list }}
{{ l | sort }} {{ l | sort(reverse=true) }} {{ w | sort }} {{ w | sort(case_sensitive=true) }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ people | sort(attribute='name') | map(attribute='name') | list }}
{{ l | reverse | list }} {{ s | reverse }} {{ u | reverse }} {{ d | dictsort }} {{ d | dictsort(true) }} {{ {'x': 2, 'y': 1} | dictsort(by='value') }} {{ d | dictsort(reverse=true) }} {{ ['a', 'A', 'b', 'a'] | unique | list }} {{ [1, 1, 2] | unique | list }}
{{ d | tojson }} {{ mixed | tojson }} {{ u | tojson }} {{ q | tojson }} {{ none | tojson }} {{ true | tojson }} {{ 1.0 | tojson }} {{ big | tojson }} {{ [] | tojson }} {{ {} | tojson }} {{ {1: 2, none: 3, true: 4} | tojson }}
{{ d | tojson(indent=2) }} {{ [] | tojson(indent=2) }} {{ [[], {}] | tojson(indent=4) }} {{ l | tojson(indent=0) }}
{{ d | tojson(separators=(',', ':')) }} {{ d | tojson(sort_keys=true) }} {{ u | tojson(ensure_ascii=true) }} {{ q | tojson(true) }} {{ d | tojson(separators=(',', ': '), indent=1) }}
{{ lines | indent }} {{ lines | indent(2, true) }} {{ lines | indent(2, blank=true) }} {{ lines | indent('> ') }} {{ lines | indent(width=3, first=true) }}
{{ '%s is %d and %.2f%%' | format(s, n, f) }} {{ '%s-%s' % ('a', 1) }} {{ '%s' % s }} {{ '{} {}'.format(1, 'x') }} {{ '{1}{0}{{}}'.format('a', 'b') }} {{ '{k}'.format(k=5) }}
{{ '<a href="x">' | e }} {{ '<b>' | safe }} {{ "a&'b" | escape }} {{ d | attr('zz') }}|
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(None, 1) }} {{ 'a-b-c'.rsplit('-', 1) }} {{ 'abc'.split('x') }} {{ ''.split(',') }} {{ ''.split() }} {{ 'a</t>b'.split('</t>')[-1] }} {{ 'x  y z'.split(maxsplit=1) }}
{{ sp.strip() }}|{{ sp.lstrip() }}|{{ sp.rstrip() }}| {{ 'xxhixx'.strip('x') }} {{ 'abc'.lstrip('ba') }} {{ '\n\nx\n'.strip('\n') }} {{ '漢x漢'.strip('漢') }}
{{ s.startswith('He') }} {{ s.endswith('d') }} {{ s.startswith(('x', 'H')) }} {{ s.upper() }} {{ s.lower() }} {{ s.title() }} {{ 'aBC dEF'.capitalize() }} {{ s.find('World') }} {{ s.find('z') }} {{ u.find('ß') }} {{ s.count('l') }} {{ s.rfind('o') }} {{ 'aaa'.count('aa') }} {{ s.index('o') }} {{ 'abc'.count('') }}
{{ '12'.isdigit() }} {{ '1a'.isdigit() }} {{ ''.isdigit() }} {{ 'ab'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab1'.islower() }} {{ '1'.isupper() }} {{ 'a\nb\r\nc'.splitlines() }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('x') }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'abc'.removeprefix('x') }}
{{ l.index(1) }} {{ [1, 1, 2].count(1) }} {{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }} {{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }}
{{ "\n\t\\\"\x41\u00e9\q" }} {{ 'a\'b' }} {{ "a'b" }} {{ ["a'b", 'a"b', "\n", "é", "\u200b"] }}
{{ strftime_now('%d %b %Y') }} {{ strftime_now("%Y-%m-%d") }}
{{ messages | length }} {{ messages[0].role }} {{ messages[-1]['content'] }} {{ messages[1:] | length }} {{ messages[0]['content'] | trim }} {{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'tool') | list | length }}
{{ messages[2].tool_calls[0].function.arguments | tojson }} {{ messages[2].tool_calls[0]['function']['arguments'] }} {{ messages[4].content.split('</think>')[-1].lstrip('\n') }} {{ messages[4].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}
{{ tools | tojson }} {{ tools[0] | tojson(indent=4) }} {% for tool in tools %}{{ tool.function.name }}{% for p, v in tool.function.parameters.properties.items() %}{{ p }}:{{ v.type }}{{ v.enum }}|{% endfor %}{% endfor %}
{% raw %}{{ not }} {% this %}{% endraw %} {# comment {{ x }} #}after {{- ' x ' -}} y
{% generation %}gen{{ n }}{% endgeneration %} {{ bos_token }}{{ eos_token }} {{ add_generation_prompt }}
{{ (1, 2) == (1, 2) }} {{ [1] == (1,) }} {{ {'a': 1} == {'a': 1.0} }} {{ [1, [2]] != [1, [3]] }} {{ 'a' == zz }} {{ zz == zz2 }}
{{ 5 | default(3) }} {{ [1, 2, 3][-2:] }} {{ 'abc'[1] }} {{ {'k': 'v'}.k }} {{ [{'a': 1}][0].a }} {{ ('a' ~ 'b') | upper }} {{ 'a' ~ 'b' | upper }} {{ (1 + 2) ~ 3 }} {{ (n * 2) ~ '!' }} {{ -1 | abs }} {{ 2 * 3 | string }}
{%- if true %} a {%- endif %} b {{- 'c' }} {%+ if true %} d {% endif -%} e
{{ loop }}| {{ loop is defined }} {{ true }}{{ True }}{{ false }}{{ none }}{{ None }}
{{ zz ~ 'x' }} {{ zz | upper }}| {{ zz | trim }}| {{ zz | list }} {{ [zz] | length }} {{ zz | join }}| {{ not zz }} {{ zz or 1 }}
{{ 1000000 * 1000000 }} {{ 1_000 }} {{ 0.5 }} {{ 1e3 }} {{ 2.5e-3 }} {{ 12345.678 }} {{ 1/3 }} {{ 1e22 }} {{ 5e-324 }} {{ 10 / 5 }}
""".strip("\n").split("\n")

BLOCKS = [
    "{% if true %}\n  yes\n{% endif %}\nend\n",
    "a\n  {% if true %}\n  b\n  {% endif %}\n  c {% if true %} d {% endif %} e\n",
    "   {%- if true -%}   x   {%- endif -%}   y",
    "   {%+ if true %}\n x\n   {%+ endif %}\n y",
    "  {{ 1 }}\n  {{- 2 }}\n  {{ 3 -}}  \n  4\n\n",
    "  {# c #}\nx\n  {#- c -#}  \n y",
    "{% for m in messages %}\n  {{ m.role }}:\n  {% if m.content %}\n    {{ m.content | trim }}\n  {% endif %}\n{% endfor %}\nlast",
    "line1\r\n{% if true %}\r\nline2\r\n{% endif %}\r\nline3",
    "x{% set a = 1 %}\n\n{% set b = 2 %}\n{{ a + b }}",
    "\t{% if true %}\t\n\tx{% endif +%}\ny",
    "{% raw %}\n {% if %}\n  {% endraw %}\n z",
    "a {%- raw -%}  {{ x }}  {%- endraw -%} b",
    "{{ '{{' }}{{ '}}' }}{{ {'a': {'b': 1}}['a']['b'] }}{{ {'a': {'b': 1}} }}",
    "{%- for i in range(3) -%}\n {{ i }} ,\n{%- endfor %}\n!",
    "{% macro a() %}\n  in\n{% endmacro %}\n[{{ a() }}]",
    "{%- macro a(x) -%}{{ x }}{%- endmacro -%}\n\n{{ a('1') }}\n{{ a('2') }}\n",
    "{%set x=1%}{%if x==1%}{{x}}{%endif%}",
    "{{ 'multi\nline' }}",
    "{# multi\nline #}\n  {% if true %}\n{# x #}\n  y{% endif %}",
]

ERRORS = [
    "{{ raise_exception('stop') }}", "{{ zz.y }}", "{{ zz['y'] }}", "{{ zz() }}", "{{ 1 + 'a' }}", "{{ 'a' + 1 }}", "{{ zz + 1 }}",
    "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ l.append(1) }}", "{{ d.update({}) }}", "{{ d.pop('b') }}", "{{ 1 < 'a' }}", "{{ none.x.y }}", "{{ n.x.y }}",
    "{% for x in n %}{% endfor %}", "{{ s | nofilter }}", "{{ s is notest }}", "{% if %}{% endif %}", "{% if true %}", "{% endif %}", "{{ ", "{% for x in l %}",
    "{{ 'abc }}", "{{ 1 + }}", "{{ (1 }}", "{% set ns = 1 %}{% set ns.x = 2 %}", "{% for a, b in [[1]] %}{% endfor %}", "{% unknown %}", "{{ [1, 2 }}",
    "{{ s.nomethod() }}", "{{ l | tojson(foo=1) if false else zz | tojson }}", "{{ s.index('zzz') }}", "{{ n() }}", "{{ range(1000000) }}",
    "{{ ''.__class__.__mro__[1].x.y }}", "{{ n in s }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{# open", "{{ 1 in 5 }}", "{{ l | first | first }}", "{{ 'x'.split('') }}",
]

DEEPSEEK = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<|User|>' + message['content'] }}{%- endif %}{%- if message['role'] == 'assistant' and message['tool_calls'] is defined and message['tool_calls'] is not none %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls'] %}{%- if not ns.is_first %}{{ '<|Assistant|><|calls|><|call|>' + tool['type'] + '<|sep|>' + tool['function']['name'] + '\\n```json\\n' + (tool['function']['arguments'] | tojson) + '\\n```<|end|>' }}{%- set ns.is_first = true -%}{%- else %}{{ '\\n<|call|>' + tool['function']['name'] }}{%- endif %}{%- endfor %}{{ '<|calls_end|>' + eos_token }}{%- endif %}{%- if message['role'] == 'assistant' and message['tool_calls'] is not defined %}{%- if ns.is_tool %}{{ '<|outputs_end|>' + message['content'] + eos_token }}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<|Assistant|>' + content + eos_token }}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{ '<|outputs|><|output|>' + message['content'] + '<|output_end|>' }}{%- set ns.is_output_first = false %}{%- else %}{{ '\\n<|output|>' + message['content'] + '<|output_end|>' }}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{ '<|outputs_end|>' }}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{ '<|Assistant|><think>\\n' }}{% endif %}"""

LLAMA = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content'] | trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("No first user message to put the tools into!") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("One tool call at a time.") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or (message.content is iterable and message.content is not string) %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MIXTRAL = """{%- if messages[0]['role'] == 'system' -%}{%- set system_message = messages[0]['content'] -%}{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set loop_messages = messages -%}{%- endif -%}
{{ bos_token }}
{%- for message in loop_messages if message['role'] in ['user', 'assistant'] %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported') }}
    {%- endif %}
{%- endfor %}
"""

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nYou may call one or more functions.\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in message.content %}
            {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
            {%- set reasoning_content = message.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""


def main():
    env = environment()
    root = pathlib.Path(__file__).resolve().parent.parent
    demo = json.loads((root / "models/trireme-demo/tokenizer_config.json").read_text())["chat_template"]
    whole = [("deepseek", DEEPSEEK), ("llama", LLAMA), ("mixtral", MIXTRAL), ("qwen", QWEN), ("demo", demo)]
    cases = [{"name": f"snippet {i}", "template": t} for i, t in enumerate(SNIPPETS)]
    # Each expression of the long snippets once more on its own, so that a failure says which.
    for i, snippet in enumerate(SNIPPETS):
        if "{%" not in snippet and snippet.count("{{") > 1 and "{#" not in snippet:
            for j, part in enumerate(snippet.split("}} {{")):
                part = ("{{" if j else "") + part + ("}}" if not part.rstrip("| ").endswith("}}") else "")
                cases.append({"name": f"snippet {i}.{j}", "template": part})
    cases += [{"name": f"white space {i}", "template": t} for i, t in enumerate(BLOCKS)]
    cases += [{"name": f"error {i}", "template": t} for i, t in enumerate(ERRORS)]
    for name, template in whole:
        for prompt in (False, True):
            for tools in (None, TOOLS):
                for cut in (2, 4, 6):
                    cases.append({"name": f"{name} {prompt} {tools is not None} {cut}", "template": template, "prompt": prompt,
                                  "tools": tools is not None, "messages": cut})
    out = []
    for case in cases:
        values = dict(KWARGS, messages=MESSAGES[: case.get("messages", 6)], tools=TOOLS if case.get("tools", True) else None,
                      documents=None, add_generation_prompt=case.get("prompt", True), bos_token="<s>", eos_token="</s>")
        try:
            case["expected"] = env.from_string(case["template"]).render(**values)
        except Exception:
            case["error"] = True
        out.append(case)
    target = root / "src/text/testdata/templates.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"messages": MESSAGES, "tools": TOOLS, "kwargs": KWARGS, "now": int(NOW.timestamp()), "cases": out},
                                 ensure_ascii=False, indent=1) + "\n")
    print(f"{len(out)} cases, {sum('error' in c for c in out)} of them errors -> {target}")


if __name__ == "__main__":
    main()
