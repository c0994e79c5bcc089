#include "train/samples.h"
#include "nn/functional.h"

namespace merv::train {
namespace {

void cut(Tokenized& t, int64_t longest) {
    if (int64_t(t.ids.size()) > longest) t.ids.resize(size_t(longest)), t.labels.resize(size_t(longest));
}

}

TextFormat text_format(const LoadedModel& loaded) {
    const Merv& m = loaded.merv;
    const int bos = !m.tokenizer.adds_bos() ? -1 : m.llm.config.bos >= 0 ? m.llm.config.bos : m.tokenizer.bos();
    TextFormat f{.tokenizer = m.tokenizer, .builder = builder_of(loaded), .bos = bos, .eos = m.tokenizer.eos()};
    f.longest = m.encoders.empty() ? m.llm.config.max_positions : m.config.llm_max_length;
    return f;
}

Tokenized tokenize_caption(const Conversation& c, const TextFormat& f) {
    if (c.turns.size() != 2) fail(Exit::bad_data, "sample ", c.id, ": ", c.turns.size(), " turns; the align stages take one question and one caption");
    const std::string& caption = c.turns[1].text;
    for (const char* mark : {"<image>", "<video>"}) if (caption.find(mark) != caption.npos) fail(Exit::bad_data, "sample ", c.id, ": the caption holds ", mark);
    Tokenized t;
    t.ids = f.tokenizer.encode(strip(caption));
    t.ids.push_back(f.eos);
    if (f.bos >= 0) t.ids.insert(t.ids.begin(), f.bos);
    t.labels = t.ids;
    if (!t.labels.empty()) t.labels[0] = nn::kIgnore;
    cut(t, f.longest);
    return t;
}

Tokenized tokenize_dialogue(const Conversation& c, const TextFormat& f) {
    Tokenized t;
    Dialogue dialogue(f.builder);
    if (f.bos >= 0) t.ids.push_back(f.bos), t.labels.push_back(nn::kIgnore);
    for (const Turn& turn : c.turns) {
        const std::string text = dialogue.add_turn(turn.human ? Role::human : Role::gpt, turn.text);
        const std::vector<int32_t> ids = f.tokenizer.encode(strip_right(text));
        t.ids.insert(t.ids.end(), ids.begin(), ids.end());
        if (turn.human) t.labels.insert(t.labels.end(), ids.size(), nn::kIgnore);
        else t.labels.insert(t.labels.end(), ids.begin(), ids.end());
    }
    cut(t, f.longest);
    if (c.multimodal() && !t.labels.empty()) t.labels[0] = nn::kIgnore;
    return t;
}

}
