#include "models/tokenizer.h"
#include "core/json.h"

namespace merv {

Tokenizer Tokenizer::load(const std::string& path) {
    if (!path.ends_with(".json")) return SentencePiece::load(path);
    return ByteBpe::build(ByteBpe::read(read_text(path, size_t(64) << 20), path), path);
}

}
