// A GGUF file as a language model, by llama.cpp's conventions for the architectures llama (LLaMA 1 to 3, SmolLM2) and qwen2.
#pragma once
#include "models/config.h"
#include "models/tokenizer.h"
#include "weights/gguf.h"

namespace merv {

// Error(Exit::bad_weights) naming the file and what is missing, wrong or not supported.
LlamaConfig gguf_config(const Gguf&);
Tokenizer gguf_tokenizer(const Gguf&);

// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"
std::string gguf_name(const std::string& parameter);
// The files of the architecture llama pair dimensions 2 i and 2 i + 1 of each head for the rotation, we i and i + D/2: rows
// of a query or key projection in our order. Those of qwen2 have it already.
Tensor halves_from_pairs(const Tensor& x, int64_t heads);
bool gguf_rotates_pairs(const Gguf&);

}
