// Prints an answer as it grows, without the white space at its ends and safe for a terminal.
#pragma once
#include <string>
#include "models/tokenizer.h"

namespace merv {

class Streamer {
  public:
    explicit Streamer(const Tokenizer& t) : decoder_(t) {}
    void add(int32_t id) { print(decoder_.add(id)); }
    void finish();                              // and a line break

  private:
    void print(const std::string& text);
    StreamDecoder decoder_;
    std::string pending_;
    bool begun_ = false;
};

}
