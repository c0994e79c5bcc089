#include "models/streamer.h"
#include <cstdio>
#include "core/log.h"
#include "models/prompt.h"

namespace merv {

void Streamer::finish() {
    print(decoder_.finish());
    std::fputs("\n", stdout);
    std::fflush(stdout);
}

void Streamer::print(const std::string& text) {
    pending_ += text;
    const std::string_view now = strip(pending_);               // white space at the end waits for what follows
    if (now.empty()) return;
    const char *begin = begun_ ? pending_.data() : now.data(), *end = now.data() + now.size();
    const std::string safe = printable({begin, size_t(end - begin)});
    pending_.erase(0, size_t(end - pending_.data()));
    begun_ = true;
    std::fwrite(safe.data(), 1, safe.size(), stdout);
    std::fflush(stdout);
}

}
