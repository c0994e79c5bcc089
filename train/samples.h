// A conversation as the ids a language model reads and the labels it learns, exactly as the reference's datasets make them (merv.md 5.3, 5.4).
#pragma once
#include <cstdint>
#include <vector>
#include "data/conversations.h"
#include "models/load.h"
#include "models/prompt.h"
#include "models/tokenizer.h"

namespace merv::train {

struct Tokenized { std::vector<int32_t> ids, labels; };         // a label per id, nn::kIgnore where nothing is learnt

struct TextFormat {
    const Tokenizer& tokenizer;
    PromptBuilder builder = PromptBuilder::pure;
    int bos = -1;                               // in front of the first turn; -1: none
    int eos = 2;                                // behind a caption in the align stages
    int64_t longest = 2048;                     // ids beyond are cut off
};
TextFormat text_format(const LoadedModel& loaded);

// Stages align and full-align: the caption alone, every id but the first is learnt. Error(Exit::bad_data): not a question and an answer, or the answer holds <image> or <video>.
Tokenized tokenize_caption(const Conversation&, const TextFormat&);
// The others: turn by turn, each tokenised on its own; answers are learnt. The first label of a sample with a clip is not.
Tokenized tokenize_dialogue(const Conversation&, const TextFormat&);

}
