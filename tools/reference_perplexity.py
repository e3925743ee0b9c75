#!/usr/bin/env python3
"""Perplexity of a checkpoint by Hugging Face transformers in float32, over the same windows as `trireme eval`.

    python3 tools/reference_perplexity.py models/trireme-demo ../shared/models/eval.jsonl [--limit N]

FP8 weights are taken back to float32 first. Needs torch, transformers, tokenizers and safetensors.
"""
import argparse
import json
import math
import pathlib

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

args = argparse.ArgumentParser()
args.add_argument("model", type=pathlib.Path)
args.add_argument("text", type=pathlib.Path)
args.add_argument("--limit", type=int, default=0)
args = args.parse_args()
torch.set_grad_enabled(False)

config = AutoConfig.from_pretrained(args.model)
if hasattr(config, "quantization_config"):
    del config.quantization_config
model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
stored = {}
for f in sorted(args.model.glob("*.safetensors")):
    stored.update(load_file(f))
weights = {}
for name, t in stored.items():
    if name.endswith("_scale_inv"):
        continue
    t = t.float()
    scale = stored.get(name + "_scale_inv")
    if scale is not None:
        t = t * scale.repeat_interleave(128, 0)[: t.shape[0]].repeat_interleave(128, 1)[:, : t.shape[1]]
    weights[name] = t
# Newer transformers keep a layer's experts as one tensor; gather them the way it does.
own = model.state_dict()
for name in own:
    if name in weights:
        continue
    if name.endswith("experts.gate_up_proj"):
        base, n = name[: -len("gate_up_proj")], own[name].shape[0]
        weights[name] = torch.stack([torch.cat((weights[f"{base}{e}.gate_proj.weight"], weights[f"{base}{e}.up_proj.weight"])) for e in range(n)])
    elif name.endswith("experts.down_proj"):
        base, n = name[: -len("down_proj")], own[name].shape[0]
        weights[name] = torch.stack([weights[f"{base}{e}.down_proj.weight"] for e in range(n)])
    elif name == "lm_head.weight":
        weights[name] = weights["model.embed_tokens.weight"]
    else:
        raise SystemExit(f"no weight for {name}")
model.load_state_dict({k: weights[k].reshape(own[k].shape) for k in own})

tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
window, bos = config.max_position_embeddings, config.bos_token_id
nats = tokens = text_bytes = documents = 0
for line in args.text.open(encoding="utf-8"):
    if args.limit and documents >= args.limit:
        break
    text = json.loads(line)["text"]
    body = tokenizer.encode(text, add_special_tokens=False).ids
    for begin in range(0, len(body), window - 1):
        ids = torch.tensor([[bos] + body[begin : begin + window - 1]])
        logits = model(ids).logits[0, :-1].double()
        nats += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    text_bytes += len(text.encode())
    documents += 1
print(f"documents {documents}  tokens {tokens}  perplexity {math.exp(nats / tokens):.4f}  bits per byte {nats / math.log(2) / text_bytes:.4f}")
