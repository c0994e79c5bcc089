#include "models/chat.h"
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>
#include "core/log.h"
#include "models/streamer.h"

namespace merv {
namespace {

constexpr const char* kHelp =
    "/video FILE   look at another video (the dialogue begins anew)\n"
    "/image FILE   the same with a still image\n"
    "/clear        forget the dialogue, keep the clip\n"
    "/help         this text\n"
    "Ctrl-C stops an answer, Ctrl-D ends. Anything else is a question.\n";

// ---- Ctrl-C

volatile std::sig_atomic_t interrupted = 0;
int wake[2] = {-1, -1};                         // a pipe the handler writes to, so that no moment is missed, whichever thread it runs in

void on_interrupt(int) {
    if (interrupted) std::signal(SIGINT, SIG_DFL), std::raise(SIGINT);      // nobody listens
    interrupted = 1;
    [[maybe_unused]] const ssize_t n = write(wake[1], "", 1);
}

struct CatchInterrupt {
    struct sigaction before = {};
    CatchInterrupt() {
        if (pipe2(wake, O_CLOEXEC | O_NONBLOCK) != 0) fail(Exit::runtime, "no pipe: ", std::strerror(errno));
        struct sigaction action = {};
        action.sa_handler = on_interrupt;
        action.sa_flags = SA_RESTART;           // else a write cut short would count as a failure of stdout
        sigaction(SIGINT, &action, &before);
    }
    ~CatchInterrupt() {
        sigaction(SIGINT, &before, nullptr);
        close(wake[0]), close(wake[1]);
    }
};

// The next line without its end; false at the end of input. Ctrl-C begins the line anew.
bool read_line(std::string& line) {
    static std::string pending;                 // read, not yet taken
    for (;;) {
        char bytes[512];
        interrupted = 0;
        while (read(wake[0], bytes, sizeof bytes) > 0) {}
        std::fputs("> ", stdout);
        std::fflush(stdout);
        for (size_t end; (end = pending.find('\n')) == pending.npos;) {
            pollfd ready[2] = {{STDIN_FILENO, POLLIN, 0}, {wake[0], POLLIN, 0}};
            if (poll(ready, 2, -1) < 0) continue;               // a signal; the pipe tells which
            if (ready[1].revents) break;
            const ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) {
                std::fputs("\n", stdout);
                return false;
            }
            pending.append(bytes, size_t(n));
        }
        if (const size_t end = pending.find('\n'); end != pending.npos) {
            line = pending.substr(0, end);
            pending.erase(0, end + 1);
            return true;
        }
        std::fputs("\n", stdout);
    }
}

class Chat {
  public:
    Chat(const Merv& m, std::optional<Visual> visual, const ChatOptions& options)
        : m_(m), options_(options), dialogue_(options.builder), visual_(std::move(visual)),
          cache_(m.llm.cache(std::min<int64_t>(m.llm.config.max_positions, m.visual_tokens() + kChatTokens))) {}

    void take(std::string_view line) {
        line = strip(line);
        if (line.empty()) return;
        if (line[0] != '/') return ask(line);
        const std::string_view command = line.substr(0, line.find(' ')), rest = strip(line.substr(command.size()));
        if (command == "/help") std::fputs(kHelp, stdout);
        else if (command == "/clear") clear();
        else if ((command == "/video" || command == "/image") && !rest.empty()) {
            visual_ = options_.look(std::string(rest), command == "/video");
            clear(), kept_ = 0;
        } else fail(Exit::usage, brief_command(command), "; /help lists the commands");
    }

  private:
    static std::string brief_command(std::string_view c) {
        return c == "/video" || c == "/image" ? concat(c, " needs a file's name") : concat("no command ", c.substr(0, 40));
    }
    void clear() { dialogue_ = Dialogue(options_.builder), turns_ = 0, unread_.clear(); }

    void ask(std::string_view question) {
        Dialogue dialogue = dialogue_;
        const std::vector<int32_t> text = m_.tokenizer.encode(valid_utf8(dialogue.ask(valid_utf8(question))));
        std::vector<int32_t> ids = unread_;
        if (turns_ == 0 && options_.bos >= 0) ids.push_back(options_.bos);
        ids.insert(ids.end(), text.begin(), text.end());
        if (ids.empty()) return;
        const int64_t clip = visual_ ? visual_->tokens.dim(0) : 0, held = turns_ ? cache_.length : clip, n = int64_t(ids.size());
        if (held + n >= cache_.capacity())
            fail(Exit::usage, "the dialogue would have ", held + n, " tokens, there is room for ", cache_.capacity(), "; /clear begins anew");
        const Tensor hidden = turns_ ? m_.llm.forward(m_.llm.embed(ids), cache_) : begin(ids, clip);
        const int64_t read = hidden.dim(0);
        const Tensor logits = m_.llm.logits(hidden.slice(read - 1, read));
        say_verbose("prefill  ", read, " tokens, ", cache_.length, " in the cache");

        Streamer streamer(m_.tokenizer);
        const std::vector<int32_t> answer = generate(m_.llm, cache_, logits, options_.generate, [&](int32_t id) {
            if (!interrupted) streamer.add(id);
            return !interrupted;
        });
        streamer.finish();
        dialogue.add_turn(Role::gpt, m_.tokenizer.decode(answer));
        dialogue_ = dialogue, turns_++;
        // The last token is not in the cache yet. One that ended the answer is replaced by the end that the format wants.
        const std::vector<int> stop = options_.generate.stop, end = m_.tokenizer.encode(dialogue.answer_end());
        const bool ended = std::find(stop.begin(), stop.end(), answer.back()) != stop.end();
        unread_.clear();
        if (!ended || end.empty()) unread_.push_back(answer.back());
        unread_.insert(unread_.end(), end.begin(), end.end());
        if (!ended && cache_.length == cache_.capacity()) warn("the answer ends where the ", cache_.capacity(), " tokens of the context are full; /clear begins anew");
    }

    // The first turn: what stands before the text, and the clip behind it, are kept from the last time if they are the same.
    Tensor begin(std::span<const int32_t> ids, int64_t clip) {
        const Tensor embeds = m_.splice(ids, visual_ ? &*visual_ : nullptr);
        if (ids[0] != first_ || ids.size() == 1) kept_ = 0;
        cache_.length = kept_;
        const Tensor hidden = m_.llm.forward(embeds.slice(kept_, embeds.dim(0)), cache_);
        kept_ = 1 + clip, first_ = ids[0];
        return hidden;
    }

    const Merv& m_;
    const ChatOptions& options_;
    Dialogue dialogue_;
    std::optional<Visual> visual_;
    KvCache cache_;
    int64_t kept_ = 0;                          // tokens of the cache that /clear leaves: the first and the clip
    int32_t first_ = -1;
    int turns_ = 0;
    std::vector<int32_t> unread_;               // said or due, but not in the cache yet
};

}

void chat(const Merv& m, std::optional<Visual> visual, const ChatOptions& options) {
    Chat chat(m, std::move(visual), options);
    const CatchInterrupt catching;
    say("chat     /help lists the commands, Ctrl-D ends");
    for (std::string line; read_line(line);) {
        try {
            chat.take(line);
        } catch (const Error& e) {
            if (e.code != Exit::usage && e.code != Exit::bad_data) throw;      // such as numerics: it would go on failing
            log_text(Level::quiet, concat("error: ", e.what()));
        }
    }
}

}
