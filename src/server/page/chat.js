// The chat page. Text of users and models only ever becomes text nodes, never markup.
"use strict";

const $ = (id) => document.getElementById(id);
const messagesBox = $("messages"), promptBox = $("prompt"), sendButton = $("send"), stopButton = $("stop");
const kSettings = ["temperature", "top_p", "top_k", "max_tokens", "seed", "system_prompt"];

let conversation = [];  // {role, content}, as the API takes them
let running = null;     // the answer in the making: {abort, ...}
let epoch = 0;          // of the conversation: an answer of an earlier one no longer counts

// --- Settings -------------------------------------------------------------------------------------------------

function storage(name) {
  // Browsers may forbid storage; the page works without.
  try { return window[name]; } catch { return null; }
}

function showRanges() {
  for (const output of document.querySelectorAll("output[for]")) {
    const value = Number($(output.getAttribute("for")).value);
    output.textContent = output.getAttribute("for") === "temperature" && value === 0 ? "0 (greedy)" : String(value);
  }
}

function loadSettings() {
  let saved = {};
  try { saved = JSON.parse(storage("localStorage")?.getItem("trireme.settings") || "{}"); } catch { saved = {}; }
  for (const id of kSettings) if (typeof saved[id] === "string") $(id).value = saved[id];
  $("api_key").value = storage("sessionStorage")?.getItem("trireme.key") || "";
  showRanges();
}

function saveSettings() {
  const values = Object.fromEntries(kSettings.map((id) => [id, $(id).value]));
  storage("localStorage")?.setItem("trireme.settings", JSON.stringify(values));
  storage("sessionStorage")?.setItem("trireme.key", $("api_key").value);
  showRanges();
}

function headers() {
  const out = { "Content-Type": "application/json" };
  const key = $("api_key").value.trim();
  if (key) out["Authorization"] = "Bearer " + key;
  return out;
}

// --- The server -----------------------------------------------------------------------------------------------

async function problemOf(response) {
  let message = "";
  try { message = (await response.json()).error.message; } catch { /* not ours: the status must do */ }
  if (response.status === 401) return "This server asks for an API key: enter it in the settings.";
  if (response.status === 429) {
    const wait = response.headers.get("Retry-After");
    return "The server is busy" + (wait ? "; try again in " + wait + " s." : "; try again soon.");
  }
  return message || "The server answered with status " + response.status + ".";
}

function setStatus(state, title) {
  $("status").dataset.state = state;
  $("status").title = title;
}

function notice(text) {
  $("notice").textContent = text || "";
  $("notice").hidden = !text;
}

async function loadModels() {
  try {
    const response = await fetch("/v1/models", { headers: headers() });
    if (!response.ok) throw new Error(await problemOf(response));
    const models = (await response.json()).data;
    const select = $("model"), before = select.value;
    select.replaceChildren(...models.map((m) => new Option(m.id, m.id)));
    if (models.some((m) => m.id === before)) select.value = before;
    select.disabled = models.length < 2;
    const context = models[0]?.max_model_len;
    select.title = context ? "Context: " + context + " tokens" : "";
    setStatus("ready", "Connected");
    notice("");
  } catch (error) {
    $("model").replaceChildren(new Option("no model", ""));
    setStatus("error", error.message);
    notice(error instanceof TypeError ? "The server cannot be reached." : error.message);
  }
}

// The events of a stream: yields the data of each, as text.
async function* serverEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value.replaceAll("\r\n", "\n");
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const event = rest.slice(0, end);
      rest = rest.slice(end + 2);
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}

function requestBody() {
  const messages = [...conversation];
  const system = $("system_prompt").value.trim();
  if (system) messages.unshift({ role: "system", content: system });
  const body = {
    model: $("model").value, messages, stream: true, stream_options: { include_usage: true },
    temperature: Number($("temperature").value), top_p: Number($("top_p").value),
  };
  for (const id of ["top_k", "max_tokens", "seed"]) if ($(id).value.trim() !== "") body[id] = Number($(id).value);
  if (!body.model) delete body.model;
  return body;
}

// --- The conversation -----------------------------------------------------------------------------------------

function element(tag, className, text) {
  const out = document.createElement(tag);
  if (className) out.className = className;
  if (text !== undefined) out.textContent = text;
  return out;
}

function atBottom() {
  return messagesBox.scrollHeight - messagesBox.scrollTop - messagesBox.clientHeight < 80;
}
function scrollDown() { messagesBox.scrollTop = messagesBox.scrollHeight; }

function addMessage(role, text) {
  $("welcome").hidden = true;
  const box = element("article", "message " + role);
  box.append(element("div", "who", role === "user" ? "You" : $("model").value || "Model"));
  const textBox = element("div", "text");
  const node = document.createTextNode(text);
  textBox.append(node);
  box.append(textBox);
  messagesBox.append(box);
  scrollDown();
  return { box, node };
}

function showStats(answer, final) {
  const parts = [];
  if (answer.firstAt) {
    parts.push("first token " + Math.round(answer.firstAt - answer.sentAt) + " ms");
    // From the first token on; all at once, as a fast model's answer may come, from the question on.
    const streamed = answer.lastAt - answer.firstAt >= 1;
    const seconds = (answer.lastAt - (streamed ? answer.firstAt : answer.sentAt)) / 1000;
    const counted = answer.tokens - (streamed ? 1 : 0);
    if (answer.tokens > 1 && seconds > 0) parts.push((counted / seconds).toFixed(1) + " tok/s");
    parts.push(answer.tokens + (answer.tokens === 1 ? " token" : " tokens"));
  } else if (!final) {
    parts.push("waiting");
  }
  if (answer.usage) {
    const cached = answer.usage.prompt_tokens_details?.cached_tokens;
    parts.push("prompt " + answer.usage.prompt_tokens + (cached ? " (" + cached + " cached)" : ""));
  }
  $("stats").textContent = parts.join(" · ");
}

function finish(answer, problem) {
  if (answer.epoch !== epoch) return;
  answer.box.classList.remove("running");
  const text = answer.node.data;
  if (text) conversation.push({ role: "assistant", content: text });
  if (problem) answer.box.append(element("div", "problem", problem));
  for (const old of messagesBox.querySelectorAll(".retry")) old.remove();
  const tools = element("div", "tools");
  if (text) {
    const copy = element("button", "copy", "Copy");
    copy.type = "button";
    copy.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; } catch { copy.textContent = "Not allowed"; }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    tools.append(copy);
  }
  const retry = element("button", "retry", "Try again");
  retry.type = "button";
  retry.addEventListener("click", () => {
    if (running) return;
    if (conversation.at(-1)?.role === "assistant") conversation.pop();
    answer.box.remove();
    ask();
  });
  tools.append(retry);
  if (answer.reason === "length") tools.append(element("span", "", "cut at the token limit"));
  if (answer.stopped) tools.append(element("span", "", "stopped"));
  answer.box.append(tools);
  showStats(answer, true);
  running = null;
  updateButtons();
  scrollDown();
  promptBox.focus();
}

async function ask() {
  notice("");
  const answer = { ...addMessage("assistant", ""), abort: new AbortController(), sentAt: performance.now(), tokens: 0, epoch };
  answer.box.classList.add("running");
  running = answer;
  updateButtons();
  showStats(answer, false);
  let problem = "";
  try {
    const response = await fetch("/v1/chat/completions",
      { method: "POST", headers: headers(), body: JSON.stringify(requestBody()), signal: answer.abort.signal });
    if (!response.ok) throw new Error(await problemOf(response));
    let ended = false;
    for await (const data of serverEvents(response.body)) {
      if (data === "[DONE]") { ended = true; break; }
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      if (event.usage) { answer.usage = event.usage; answer.tokens = event.usage.completion_tokens; }
      const choice = event.choices?.[0];
      if (!choice) continue;
      if (choice.finish_reason) answer.reason = choice.finish_reason;
      if (!choice.delta?.content) continue;
      answer.lastAt = performance.now();
      answer.firstAt ??= answer.lastAt;
      answer.tokens++;
      const follow = atBottom();
      answer.node.appendData(choice.delta.content);
      if (follow) scrollDown();
      showStats(answer, false);
    }
    if (!ended) throw new Error("The answer broke off: the connection ended.");
  } catch (error) {
    if (answer.abort.signal.aborted) answer.stopped = true;
    else problem = error instanceof TypeError ? "The connection to the server was lost." : error.message;
  }
  finish(answer, problem);
}

function send(text) {
  text = text.trim();
  if (!text || running) return;
  for (const id of ["top_k", "max_tokens", "seed"]) {
    if (!$(id).reportValidity()) return openSettings(true);
  }
  promptBox.value = "";
  fitPrompt();
  conversation.push({ role: "user", content: text });
  addMessage("user", text);
  ask();
}

function newChat() {
  epoch++;
  running?.abort.abort();
  running = null;
  conversation = [];
  messagesBox.replaceChildren();
  $("welcome").hidden = false;
  $("stats").textContent = "";
  notice("");
  updateButtons();
  promptBox.focus();
}

// --- Controls -------------------------------------------------------------------------------------------------

function updateButtons() {
  stopButton.hidden = !running;
  sendButton.hidden = !!running;
  sendButton.disabled = !promptBox.value.trim();
}

function fitPrompt() {
  promptBox.style.height = "auto";
  promptBox.style.height = promptBox.scrollHeight + "px";
  updateButtons();
}

function openSettings(open) {
  $("settings").classList.toggle("open", open);
  $("toggle_settings").setAttribute("aria-expanded", String(open));
}

promptBox.addEventListener("input", fitPrompt);
promptBox.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send(promptBox.value);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) running.abort.abort();
  else openSettings(false);
});
$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(promptBox.value); });
stopButton.addEventListener("click", () => running?.abort.abort());
$("new_chat").addEventListener("click", newChat);
$("toggle_settings").addEventListener("click", () => openSettings(!$("settings").classList.contains("open")));
$("examples").addEventListener("click", (event) => {
  if (event.target.classList.contains("example")) send(event.target.textContent);
});
$("settings").addEventListener("input", saveSettings);
$("api_key").addEventListener("change", loadModels);
$("reset_settings").addEventListener("click", () => {
  for (const id of kSettings) $(id).value = $(id).defaultValue;
  saveSettings();
});

loadSettings();
loadModels();
updateButtons();
