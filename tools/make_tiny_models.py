#!/usr/bin/env python3
"""Makes the tiny random checkpoints under tests/oracle/data and what Hugging Face transformers computes for them.

Each has the tensor names and config keys of the public checkpoints of its family, and odd sizes, so that a test
can hold the engine's models against transformers without a download. Needs torch, transformers and safetensors:

    python3 tools/make_tiny_models.py tests/oracle/data
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 160
LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=VOCAB, hidden_size=48, num_hidden_layers=2,
             num_attention_heads=6, num_key_value_heads=2, head_dim=16, intermediate_size=72, hidden_act="silu", rms_norm_eps=1e-5,
             rope_theta=10000.0, max_position_embeddings=1024, tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
             rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128),
             torch_dtype="bfloat16", bos_token_id=0, eos_token_id=1)
MIXTRAL = dict(architectures=["MixtralForCausalLM"], model_type="mixtral", vocab_size=VOCAB, hidden_size=40, num_hidden_layers=2,
               num_attention_heads=4, num_key_value_heads=2, intermediate_size=56, num_local_experts=6, num_experts_per_tok=2, hidden_act="silu",
               rms_norm_eps=1e-5, rope_theta=1000000.0, sliding_window=None, max_position_embeddings=512, tie_word_embeddings=False,
               torch_dtype="bfloat16", bos_token_id=0, eos_token_id=1)
DEEPSEEK = dict(architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", vocab_size=VOCAB, hidden_size=64, num_hidden_layers=3,
                first_k_dense_replace=1, num_attention_heads=3, num_key_value_heads=3, q_lora_rank=40, kv_lora_rank=48, qk_nope_head_dim=24,
                qk_rope_head_dim=16, v_head_dim=20, intermediate_size=88, n_routed_experts=12, num_experts_per_tok=3, n_group=4, topk_group=2,
                n_shared_experts=2, moe_intermediate_size=24, moe_layer_freq=1, scoring_func="sigmoid", topk_method="noaux_tc",
                norm_topk_prob=True, routed_scaling_factor=2.5, num_nextn_predict_layers=0, hidden_act="silu", rms_norm_eps=1e-6,
                rope_theta=10000.0, rope_interleave=True,
                rope_scaling=dict(type="yarn", rope_type="yarn", factor=8.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0,
                                  mscale=1.0, mscale_all_dim=1.0),
                max_position_embeddings=512, attention_bias=False, tie_word_embeddings=False, torch_dtype="bfloat16", bos_token_id=0, eos_token_id=1)


def decoder_names(c):
    h, d = c["hidden_size"], c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    out = {"model.embed_tokens.weight": (c["vocab_size"], h), "model.norm.weight": (h,)}
    if not c["tie_word_embeddings"]:
        out["lm_head.weight"] = (c["vocab_size"], h)
    for i in range(c["num_hidden_layers"]):
        b = f"model.layers.{i}."
        out[b + "input_layernorm.weight"] = out[b + "post_attention_layernorm.weight"] = (h,)
        a = b + "self_attn."
        if c["model_type"] == "deepseek_v3":
            n, qk, v = c["num_attention_heads"], c["qk_nope_head_dim"] + c["qk_rope_head_dim"], c["v_head_dim"]
            out[a + "q_a_proj.weight"], out[a + "q_a_layernorm.weight"] = (c["q_lora_rank"], h), (c["q_lora_rank"],)
            out[a + "q_b_proj.weight"] = (n * qk, c["q_lora_rank"])
            out[a + "kv_a_proj_with_mqa.weight"] = (c["kv_lora_rank"] + c["qk_rope_head_dim"], h)
            out[a + "kv_a_layernorm.weight"] = (c["kv_lora_rank"],)
            out[a + "kv_b_proj.weight"] = (n * (c["qk_nope_head_dim"] + v), c["kv_lora_rank"])
            out[a + "o_proj.weight"] = (h, n * v)
            f = b + "mlp."
            if i < c["first_k_dense_replace"]:
                mlps = {f: c["intermediate_size"]}
            else:
                w = c["moe_intermediate_size"]
                mlps = {f + f"experts.{e}.": w for e in range(c["n_routed_experts"])} | {f + "shared_experts.": w * c["n_shared_experts"]}
                out[f + "gate.weight"] = (c["n_routed_experts"], h)
                out[f + "gate.e_score_correction_bias"] = (c["n_routed_experts"],)
            for p, w in mlps.items():
                out[p + "gate_proj.weight"] = out[p + "up_proj.weight"] = (w, h)
                out[p + "down_proj.weight"] = (h, w)
            continue
        out[a + "q_proj.weight"] = (c["num_attention_heads"] * d, h)
        out[a + "k_proj.weight"] = out[a + "v_proj.weight"] = (c["num_key_value_heads"] * d, h)
        out[a + "o_proj.weight"] = (h, c["num_attention_heads"] * d)
        if c["model_type"] == "mixtral":
            m = b + "block_sparse_moe."
            out[m + "gate.weight"] = (c["num_local_experts"], h)
            for e in range(c["num_local_experts"]):
                out[m + f"experts.{e}.w1.weight"] = out[m + f"experts.{e}.w3.weight"] = (c["intermediate_size"], h)
                out[m + f"experts.{e}.w2.weight"] = (h, c["intermediate_size"])
        else:
            out[b + "mlp.gate_proj.weight"] = out[b + "mlp.up_proj.weight"] = (c["intermediate_size"], h)
            out[b + "mlp.down_proj.weight"] = (h, c["intermediate_size"])
    return out


def main(root):
    torch.manual_seed(3)
    for name, config in (("llama", LLAMA), ("mixtral", MIXTRAL), ("deepseek", DEEPSEEK)):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        state = {}
        for key, shape in decoder_names(config).items():
            if key.endswith("e_score_correction_bias"):
                state[key] = torch.rand(shape) * 0.2
            elif "norm" in key:
                state[key] = (1 + 0.2 * torch.randn(shape)).bfloat16()
            else:
                state[key] = (torch.randn(shape) * 0.35 * (shape[-1] ** -0.5) * 3).bfloat16()
        save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
        kw = dict(dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        model, info = AutoModelForCausalLM.from_pretrained(str(folder), config=AutoConfig.from_pretrained(str(folder)), **kw)
        problems = {k: v for k, v in info.items() if v}
        assert not problems, (name, problems)
        model.eval()
        cases = []
        with torch.no_grad():
            for n in (1, 5, 70, 200):
                ids = torch.randint(2, VOCAB, (1, n))
                logits = model(ids).logits[0, -1].float()
                seq, greedy = ids, []
                for _ in range(12):
                    last = model(seq).logits[0, -1].float()
                    top = last.topk(2)
                    greedy.append([int(top.indices[0]), float(top.values[0] - top.values[1])])
                    seq = torch.cat((seq, top.indices[:1][None]), 1)
                cases.append(dict(ids=ids[0].tolist(), logits=[float(f"{x:.7g}") for x in logits.tolist()], greedy=greedy))
        (folder / "expected.json").write_text(json.dumps(dict(about="transformers, float32, eager attention; greedy: [token, gap to the second]", cases=cases)) + "\n")
        print(name, sum(t.numel() for t in state.values()), "parameters")


main(pathlib.Path(sys.argv[1]))
