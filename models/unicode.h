// Characters as byte-level tokenizers see them: UTF-8, three Unicode classes, canonical composition (NFC). The tables are
// the ones the Hugging Face tokenizers 0.19.1 use (tests/golden/unicode_tables.py).
#pragma once
#include <string>
#include <string_view>

namespace merv {

// Bytes of the UTF-8 character at the start of s (Unicode 15, table 3-7); 0 if none starts so; -1 if s ends inside one.
int character(std::string_view s);

namespace unicode {

// The character at the start of valid UTF-8, which is not empty, and how many bytes it takes.
struct Decoded { char32_t code; size_t bytes; };
Decoded decode(std::string_view s);
void append(std::string& s, char32_t c);

bool is_letter(char32_t c);                     // \p{L}
bool is_number(char32_t c);                     // \p{N}
bool is_digit(char32_t c);                      // what the Digits pre-tokenizer cuts out: \p{N} and a few newer ones
bool is_space(char32_t c);                      // \s, the property White_Space
std::string nfc(std::string_view s);            // valid UTF-8, canonically decomposed, ordered and composed again

}

}
