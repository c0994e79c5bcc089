#include "data/video.h"
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavfilter/buffersrc.h>
#include <libavformat/avformat.h>
#include <libavutil/avstring.h>
#include <libavutil/display.h>
#include <libavutil/opt.h>
}
#include <algorithm>
#include <chrono>
#include <atomic>
#include <cmath>
#include <cstdarg>
#include <cstring>
#include <filesystem>
#include <mutex>
#include "core/log.h"
#include "core/profile.h"
#include "data/image.h"

namespace merv {
namespace {

constexpr int kMaxStreams = 1000;
constexpr int64_t kMaxSeconds = 24 * 3600;
constexpr size_t kMaxPackets = size_t(kMaxSeconds) * 1000;      // 1000 frames a second, all day
constexpr int kLongestReorder = 32;     // pictures a decoder may hand out late; H.264 and HEVC allow 16

// ---- FFmpeg's log. The first error it reports about a file becomes part of our one line; the rest is dropped.
class Messages {
  public:
    Messages() : outer_(current) { current = this; }
    ~Messages() { current = outer_; }
    Messages(const Messages&) = delete;
    Messages& operator=(const Messages&) = delete;
    std::string first() const { std::lock_guard lock(mutex_); return text_.substr(0, text_.find('\n')); }
    void clear() { std::lock_guard lock(mutex_); text_.clear(); }
    std::atomic<bool> trouble = false;          // an error, or a picture patched over, since somebody set this to false

    static void receive(void* object, int level, const char* format, va_list arguments) {
        const bool patched = std::strncmp(format, "concealing", 10) == 0;
        Messages* m = level <= AV_LOG_ERROR || patched ? owner(object) : nullptr;
        if (!m) return;
        m->trouble = true;
        if (patched) return;
        char text[256];
        std::vsnprintf(text, sizeof text, format, arguments);
        std::lock_guard lock(m->mutex_);
        if (m->text_.find('\n') == std::string::npos && m->text_.size() < 300) m->text_ += text;    // a line may come in parts
    }

  private:
    // Decoders log from threads of their own: they are traced through the contexts, which we mark; else it is this thread's.
    static Messages* owner(void* object) {
        for (int depth = 0; object && depth < 8; depth++) {
            const AVClass* c = *static_cast<const AVClass**>(object);
            if (!c) break;
            void* mark = c == avcodec_get_class() ? static_cast<AVCodecContext*>(object)->opaque
                         : c == avformat_get_class() ? static_cast<AVFormatContext*>(object)->opaque : nullptr;
            if (mark) return static_cast<Messages*>(mark);
            object = c->parent_log_context_offset ? *reinterpret_cast<void**>(static_cast<char*>(object) + c->parent_log_context_offset) : nullptr;
        }
        return current;
    }
    static thread_local Messages* current;
    mutable std::mutex mutex_;
    std::string text_;
    Messages* outer_;
};
thread_local Messages* Messages::current = nullptr;

// ---- handles
struct Close {
    void operator()(AVFormatContext* p) const {
        AVIOContext* io = p->pb;                // ours: avformat_close_input leaves it
        avformat_close_input(&p);
        avio_closep(&io);
    }
    void operator()(AVCodecContext* p) const { avcodec_free_context(&p); }
    void operator()(AVFilterGraph* p) const { avfilter_graph_free(&p); }
    void operator()(AVPacket* p) const { av_packet_free(&p); }
    void operator()(AVFrame* p) const { av_frame_free(&p); }
};
template <class T> using Handle = std::unique_ptr<T, Close>;
template <class T> Handle<T> own(T* p) {
    if (!p) fail(Exit::no_memory, "out of memory in FFmpeg");
    return Handle<T>(p);
}

std::string error_text(int code) {
    char text[AV_ERROR_MAX_STRING_SIZE];
    return av_strerror(code, text, sizeof text) == 0 ? text : concat("error ", code);
}

// ---- decoded pictures to RGB24 rows
class ToRgb {
  public:
    // The rotation is in the stream's display matrix. Output is always height x width, also if the stream changes its size
    // on the way; decord does the same.
    ToRgb(const AVStream* stream) : width(stream->codecpar->width), height(stream->codecpar->height) {
        const auto* matrix = reinterpret_cast<const int32_t*>(av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, nullptr));
        if (!matrix) return;
        // as ffmpeg's -autorotate: clockwise degrees in [0, 360), and mirrored matrices
        double theta = -std::round(av_display_rotation_get(matrix));
        theta -= 360 * std::floor(theta / 360 + 0.9 / 360);
        auto near = [&](double angle) { return std::abs(theta - angle) < 1; };
        if (near(90)) rotate_ = matrix[3] > 0 ? "transpose=cclock_flip," : "transpose=clock,";
        else if (near(180)) rotate_ = std::string(matrix[0] < 0 ? "hflip," : "") + (matrix[4] < 0 ? "vflip," : "");
        else if (near(270)) rotate_ = matrix[3] < 0 ? "transpose=clock_flip," : "transpose=cclock,";
        else if (near(0) && matrix[4] < 0) rotate_ = "vflip,";
        if (near(90) || near(270)) std::swap(width, height);
    }

    void convert(AVFrame* picture, uint8_t* rgb) {
        if (!graph_ || picture->format != format_ || picture->width != from_width_ || picture->height != from_height_) build(picture);
        Handle<AVFrame> out = own(av_frame_alloc());
        int r = av_buffersrc_add_frame_flags(source_, picture, AV_BUFFERSRC_FLAG_KEEP_REF);
        if (r >= 0) r = av_buffersink_get_frame(sink_, out.get());
        if (r < 0) fail(Exit::bad_data, "a frame cannot be converted to RGB (", error_text(r), ")");
        CHECK(out->width == width && out->height == height && out->format == AV_PIX_FMT_RGB24, "video: filter gave ", out->width, " x ", out->height);
        for (int y = 0; y < height; y++) std::memcpy(rgb + size_t(y) * size_t(width) * 3, out->data[0] + int64_t(y) * out->linesize[0], size_t(width) * 3);
    }

    int width, height;

  private:
    void build(const AVFrame* picture) {
        graph_ = own(avfilter_graph_alloc());
        graph_->nb_threads = 1;
        graph_->scale_sws_opts = av_strdup("flags=bilinear");    // decord's, see the header
        const AVRational sar = picture->sample_aspect_ratio;
        const std::string from = concat("video_size=", picture->width, "x", picture->height, ":pix_fmt=", picture->format, ":time_base=1/1:pixel_aspect=",
                                        sar.num, "/", std::max(sar.den, 1));
        const std::string chain = concat(rotate_, "scale=", width, ":", height, ":flags=bilinear,format=rgb24");
        AVFilterInOut *in = avfilter_inout_alloc(), *out = avfilter_inout_alloc();
        int r = in && out ? 0 : AVERROR(ENOMEM);
        if (r >= 0) r = avfilter_graph_create_filter(&source_, avfilter_get_by_name("buffer"), "in", from.c_str(), nullptr, graph_.get());
        if (r >= 0) r = avfilter_graph_create_filter(&sink_, avfilter_get_by_name("buffersink"), "out", nullptr, nullptr, graph_.get());
        if (r >= 0) {
            *out = {av_strdup("in"), source_, 0, nullptr};
            *in = {av_strdup("out"), sink_, 0, nullptr};
            r = avfilter_graph_parse_ptr(graph_.get(), chain.c_str(), &in, &out, nullptr);
        }
        if (r >= 0) r = avfilter_graph_config(graph_.get(), nullptr);
        avfilter_inout_free(&in);
        avfilter_inout_free(&out);
        if (r < 0) fail(Exit::bad_data, "a frame cannot be converted to RGB (", error_text(r), ")");
        format_ = picture->format, from_width_ = picture->width, from_height_ = picture->height;
    }

    std::string rotate_;
    Handle<AVFilterGraph> graph_;
    AVFilterContext *source_ = nullptr, *sink_ = nullptr;
    int format_ = AV_PIX_FMT_NONE, from_width_ = 0, from_height_ = 0;
};

// ---- one video stream of a file
class Video {
  public:
    Video(const std::string& path, const DecodeLimits& limits);
    int64_t total() const { return int64_t(packets_.size()); }
    double fps() const { return fps_; }
    bool is_gif() const { return !std::strcmp(format_->iformat->name, "gif"); }
    Tensor read(const std::vector<int64_t>& numbers);           // increasing frame numbers -> u8 (n, H, W, 3)

  private:
    struct Packet { int64_t pts, dts; bool key; };              // in the order of the file
    struct Shown { int64_t pts; size_t packet; };               // in the order of presentation: shown_[n] is frame n

    template <class... A> [[noreturn]] void refuse(const A&... what) const { fail(Exit::bad_data, path_, ": ", what...); }
    std::string because(int code = 0) const {                   // " (what FFmpeg said)"
        const std::string said = messages_.first();
        return said.empty() && !code ? "" : " (" + (said.empty() ? error_text(code) : said) + ")";
    }
    void open();
    void open_decoder(int threads);
    void list_packets();
    Tensor decode(const std::vector<int64_t>& numbers);
    bool next_packet();                                         // of our stream, into packet_; false at the end
    AVFrame* next_picture();                                    // in order of output, null at the end
    void start_at(size_t packet);
    void rewind();
    size_t key_for(int64_t number) const;
    int64_t number_of(const AVFrame* picture);
    std::string when(int64_t number) const;

    void check_time() const {
        if (limits_.seconds > 0 && std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count() > limits_.seconds)
            refuse("could not be decoded within ", limits_.seconds, " s; it is damaged, or very long: convert or cut it, or allow more time");
    }

    std::string path_;
    DecodeLimits limits_;
    std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
    Messages messages_;
    Handle<AVFormatContext> format_;
    Handle<AVCodecContext> codec_;
    Handle<AVPacket> packet_ = own(av_packet_alloc());
    Handle<AVFrame> picture_ = own(av_frame_alloc());
    AVStream* stream_ = nullptr;
    double fps_ = 0;
    std::string remark_;                                        // what FFmpeg complained about while listing, and went on
    std::vector<Packet> packets_;
    std::vector<Shown> shown_;
    size_t first_key_ = 0;                                      // nothing before it can be decoded
    bool timed_ = true;                                         // every packet has a timestamp of its own
    bool seekable_ = true;                                      // until seeking fails once
    size_t position_ = 0;                                       // packets handed to the decoder are those before this one
    bool pending_ = false, draining_ = false;                   // packet_ waits to be handed over; no packets are left
    int64_t counted_ = 0;                                       // pictures since the start, where there are no timestamps
    bool broken_ = false;                                       // the decoder reported an error since start_at
};

Video::Video(const std::string& path, const DecodeLimits& limits) : path_(path), limits_(limits) {
    static const bool listening = (av_log_set_callback(Messages::receive), true);
    (void)listening;
    open();
    open_decoder(limits.threads);
    const AVRational rate = stream_->avg_frame_rate.num > 0 && stream_->avg_frame_rate.den > 0 ? stream_->avg_frame_rate : stream_->r_frame_rate;
    fps_ = rate.num > 0 && rate.den > 0 ? av_q2d(rate) : 0;
    list_packets();
}

void Video::open_decoder(int threads) {
    const AVCodec* decoder = avcodec_find_decoder(stream_->codecpar->codec_id);
    codec_ = own(avcodec_alloc_context3(decoder));
    codec_->opaque = &messages_;
    codec_->max_pixels = kMaxPixels;
    codec_->thread_count = threads;                             // 0: as many as there are cores
    codec_->pkt_timebase = stream_->time_base;
    AVDictionary* options = nullptr;
    if (decoder->id == AV_CODEC_ID_GIF) av_dict_set(&options, "trans_color", "0", 0);   // where nothing was drawn: black, as in PIL
    int r = avcodec_parameters_to_context(codec_.get(), stream_->codecpar);
    if (r >= 0) r = avcodec_open2(codec_.get(), decoder, &options);
    av_dict_free(&options);
    if (r < 0) refuse("its ", decoder->name, " stream cannot be decoded", because(r), "; convert it, e.g. to H.264 in MP4");
}

void Video::open() {
    // Formats whose content is the names of other files or addresses. Whatever still slips through finds no door: io_open
    // refuses every second file, and no protocol but `file` is allowed.
    static constexpr const char* playlists[] = {"hls", "dash", "concat", "image2", "sdp", "rtsp", "rtp", "imf", "webm_dash_manifest",
                                                "vapoursynth", "avisynth"};
    AVDictionary* only_files = nullptr;
    av_dict_set(&only_files, "protocol_whitelist", "file", 0);
    AVIOContext* io = nullptr;
    int r = avio_open2(&io, ("file:" + path_).c_str(), AVIO_FLAG_READ, nullptr, &only_files);    // the prefix: no name is a protocol
    av_dict_free(&only_files);
    if (r < 0) refuse("cannot be read", because(r), "; check the path and its permissions");
    AVFormatContext* context = avformat_alloc_context();
    if (!context) avio_closep(&io);
    format_ = own(context);
    context->pb = io;
    context->opaque = &messages_;
    context->flags |= AVFMT_FLAG_CUSTOM_IO;
    context->max_streams = kMaxStreams;
    context->protocol_whitelist = av_strdup("file");
    context->io_open = [](AVFormatContext* s, AVIOContext**, const char*, int, AVDictionary**) {
        av_log(s, AV_LOG_ERROR, "it refers to another file, which is not followed\n");
        return AVERROR(EPERM);
    };
    const AVInputFormat* kind = nullptr;                        // by content alone: the name of a file says nothing
    r = av_probe_input_buffer2(io, &kind, "", context, 0, 0);
    if (r < 0) refuse("is no video that FFmpeg knows", because(), "; give a video file, such as MP4, MKV, WebM, MOV, AVI or GIF");
    for (const char* name : playlists)
        if (av_match_name(name, kind->name)) refuse("is a playlist or a list of files (", kind->name, "), which is not followed; give the video itself");
    context = format_.release();                                // a failing open frees it
    r = avformat_open_input(&context, "", kind, nullptr);
    if (r < 0) avio_closep(&io);
    format_.reset(context);
    if (r < 0) refuse("cannot be opened as ", kind->long_name, because(r), "; the file is damaged or incomplete, copy or download it again");

    auto check_size = [&](const AVCodecParameters* p) {
        if (int64_t(p->width) * p->height > kMaxPixels)
            refuse("has frames of ", p->width, " x ", p->height, ", more than ", kMaxPixels >> 20, " Mi pixels; scale it down first");
    };
    const unsigned streams = format_->nb_streams;
    for (unsigned i = 0; i < streams; i++) check_size(format_->streams[i]->codecpar);
    std::vector<AVDictionary*> limits(streams, nullptr);        // for the frames that are decoded to learn about the streams
    for (AVDictionary*& l : limits) av_dict_set_int(&l, "max_pixels", kMaxPixels, 0);
    r = avformat_find_stream_info(format_.get(), limits.data());
    for (AVDictionary*& l : limits) av_dict_free(&l);
    if (r < 0) refuse("its streams cannot be read", because(r), "; the file is damaged, copy or download it again");
    if (format_->duration != AV_NOPTS_VALUE && format_->duration / AV_TIME_BASE > kMaxSeconds)
        refuse("says it is ", format_->duration / AV_TIME_BASE / 3600, " hours long, more than ", kMaxSeconds / 3600, "; cut it into pieces");
    const int best = av_find_best_stream(format_.get(), AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
    if (best < 0) refuse("holds no video stream (it is ", kind->long_name, "); give a file with pictures");
    stream_ = format_->streams[best];
    const AVCodecParameters* p = stream_->codecpar;
    if (stream_->disposition & AV_DISPOSITION_ATTACHED_PIC) refuse("holds sound and a cover picture but no video; give a file with a video stream");
    if (!avcodec_find_decoder(p->codec_id))
        refuse("is ", avcodec_get_name(p->codec_id), ", which this FFmpeg cannot decode; convert it, e.g. to H.264 in MP4");
    check_size(p);
    if (p->width <= 0 || p->height <= 0) refuse("its frame size cannot be found out", because(), "; the file is damaged, copy or download it again");
    for (unsigned i = 0; i < format_->nb_streams; i++) format_->streams[i]->discard = int(i) == best ? AVDISCARD_DEFAULT : AVDISCARD_ALL;
}

// The first pass reads packets without decoding them: their number is the number of frames, their timestamps, sorted, tell
// which is which.
void Video::list_packets() {
    messages_.clear();
    while (next_packet()) {
        if (packets_.size() >= kMaxPackets) refuse("holds more than ", kMaxPackets, " frames; cut it into pieces");
        packets_.push_back({packet_->pts, packet_->dts, (packet_->flags & AV_PKT_FLAG_KEY) != 0});
    }
    if (packets_.empty()) refuse("holds no frames", because(), "; the file is damaged or incomplete, copy or download it again");
    const int64_t size = avio_size(format_->pb);                // a table of contents may name bytes that were cut off
    for (int i = 0; size > 0 && i < avformat_index_get_entries_count(stream_); i++) {
        const AVIndexEntry* e = avformat_index_get_entry(stream_, i);
        if (e->pos + e->size > size)
            refuse("is cut off: its frames from number ", i, " of ", avformat_index_get_entries_count(stream_),
                   " on lie past the end of the file; copy or download it again");
    }
    remark_ = messages_.first();
    while (first_key_ < packets_.size() && !packets_[first_key_].key) first_key_++;
    if (first_key_ == packets_.size()) first_key_ = 0;          // a stream that marks none
    for (size_t i = 0; i < packets_.size(); i++) shown_.push_back({packets_[i].pts, i});
    std::stable_sort(shown_.begin(), shown_.end(), [](const Shown& a, const Shown& b) { return a.pts < b.pts; });
    for (size_t i = 0; i < shown_.size(); i++)
        if (shown_[i].pts == AV_NOPTS_VALUE || (i && shown_[i].pts == shown_[i - 1].pts)) timed_ = false;
}

bool Video::next_packet() {
    for (int idle = 0;;) {
        check_time();
        av_packet_unref(packet_.get());
        const int r = av_read_frame(format_.get(), packet_.get());
        if (r == AVERROR_EOF) return false;
        if (r == AVERROR(EAGAIN) && ++idle < 1000) continue;
        if (r < 0) refuse("cannot be read on after frame ", packets_.size(), because(r), "; the file is damaged, copy or download it again");
        if (packet_->stream_index == stream_->index) return true;
    }
}

AVFrame* Video::next_picture() {
    for (;;) {
        check_time();
        int r = avcodec_receive_frame(codec_.get(), picture_.get());
        if (r >= 0) return picture_.get();
        if (r == AVERROR_EOF) return nullptr;
        if (r == AVERROR(EAGAIN)) {
            if (draining_) return nullptr;
            if (!pending_ && !next_packet()) {
                draining_ = true;
                r = avcodec_send_packet(codec_.get(), nullptr);
            } else {
                pending_ = false;
                position_++;
                r = avcodec_send_packet(codec_.get(), packet_.get());
            }
        }
        if (r < 0 && r != AVERROR(EAGAIN) && r != AVERROR_EOF && position_ > first_key_) broken_ = true;
    }
}

void Video::rewind() {
    format_.reset();                                            // certain in every format, which seeking to the start is not
    open();
    position_ = 0, pending_ = false;
}

// Gets ready to decode from `packet`, a key frame, or from one before it.
void Video::start_at(size_t packet) {
    avcodec_flush_buffers(codec_.get());
    draining_ = pending_ = broken_ = false;
    counted_ = 0;
    messages_.clear();
    if (packet > first_key_)
        for (const int64_t target : {packets_[packet].pts, packets_[packet].dts}) {     // containers seek by one or the other
            if (target == AV_NOPTS_VALUE || av_seek_frame(format_.get(), stream_->index, target, AVSEEK_FLAG_BACKWARD) < 0) continue;
            bool found = next_packet();
            while (found && !(packet_->flags & AV_PKT_FLAG_KEY)) found = next_packet();
            if (!found) continue;
            const auto at = std::lower_bound(shown_.begin(), shown_.end(), packet_->pts, [](const Shown& s, int64_t pts) { return s.pts < pts; });
            if (at == shown_.end() || at->pts != packet_->pts || at->packet > packet || packets_[at->packet].dts != packet_->dts) continue;
            position_ = at->packet, pending_ = true;
            return;
        }
    if (packet > first_key_) seekable_ = false;
    rewind();
}

// The last key frame from which frame `number` comes out whole. A picture shown before a key frame but stored behind it (an
// open group of pictures) needs the one before.
size_t Video::key_for(int64_t number) const {
    const Shown& s = shown_[size_t(number)];
    for (size_t k = s.packet; timed_ && seekable_ && k > first_key_; k--)
        if (packets_[k].key && packets_[k].pts <= s.pts) return k;
    return first_key_;
}

int64_t Video::number_of(const AVFrame* picture) {
    if (!timed_) return counted_++;
    for (const int64_t pts : {picture->pts, picture->best_effort_timestamp}) {
        const auto at = std::lower_bound(shown_.begin(), shown_.end(), pts, [](const Shown& s, int64_t p) { return s.pts < p; });
        if (at != shown_.end() && at->pts == pts) return at - shown_.begin();
    }
    return -1;
}

std::string Video::when(int64_t number) const {
    const double seconds = timed_ ? double(shown_[size_t(number)].pts - shown_[0].pts) * av_q2d(stream_->time_base) : fps_ > 0 ? double(number) / fps_ : -1;
    std::ostringstream s;
    s << "frame " << number << " of " << total();
    if (seconds >= 0) s << " (" << std::round(seconds * 1000) / 1000 << " s)";
    return s.str();
}

// FFmpeg's frame threads can lose the mark of a damaged picture on its way from thread to thread, but not the message about
// it. So: all cores first, and if anything was said, again with one thread, whose marks are exact.
Tensor Video::read(const std::vector<int64_t>& numbers) {
    messages_.trouble = false;
    Tensor frames;
    try {
        frames = decode(numbers);
    } catch (const Error&) {
        if (!messages_.trouble) throw;
    }
    if (messages_.trouble) {
        open_decoder(1);
        frames = decode(numbers);
    }
    if (!remark_.empty()) warn(path_, ": ", remark_, "; the ", total(), " frames that are there are used");
    return frames;
}

Tensor Video::decode(const std::vector<int64_t>& numbers) {
    ToRgb rgb(stream_);
    Tensor frames({int64_t(numbers.size()), rgb.height, rgb.width, 3}, DType::u8, Device::cpu);
    const int64_t frame_bytes = int64_t(rgb.height) * rgb.width * 3;
    std::vector<int64_t> wanted = numbers;                      // the picture to show for each; usually its own
    std::vector<bool> done(numbers.size()), replaced(numbers.size());
    size_t next = 0;                                            // all before it are done
    bool from_start = false;
    while (next < wanted.size()) {
        const size_t start = from_start ? first_key_ : key_for(wanted[next]);
        start_at(start);
        const bool whole = start == first_key_;                 // decoded from the start: what is missing now is missing
        const int64_t earliest = !timed_ || whole ? 0 : std::lower_bound(shown_.begin(), shown_.end(), packets_[position_].pts,
                                                                         [](const Shown& s, int64_t p) { return s.pts < p; }) - shown_.begin();
        // Over what nobody wants. A seek may land before `start`, so only a later key frame is a reason to seek again.
        auto jump = [&] { return !from_start && key_for(wanted[next]) > std::max(start, position_); };
        std::vector<bool> seen(packets_.size());
        bool damaged = false;
        int later = 0;
        while (next < wanted.size() && later <= kLongestReorder && !broken_) {
            AVFrame* picture = next_picture();
            if (!picture || broken_) break;
            const int64_t n = number_of(picture);
            if (n < earliest || n >= total()) continue;         // shown before the key frame we started from
            seen[size_t(n)] = true;
            if (picture->decode_error_flags || (picture->flags & AV_FRAME_FLAG_CORRUPT)) damaged = true;
            else if (picture->key_frame) damaged = false;
            if (n > wanted[next]) later++;
            for (size_t i = next; i < wanted.size(); i++) {
                if (wanted[i] != n || done[i]) continue;
                if (damaged) break;
                rgb.convert(picture, frames.data<uint8_t>() + int64_t(i) * frame_bytes);
                done[i] = true, later = 0;
            }
            while (next < wanted.size() && done[next]) next++, from_start = false;
            if (next < wanted.size() && damaged && wanted[next] == n) break;
            if (next < wanted.size() && jump()) break;
        }
        if (next == wanted.size()) break;
        if (jump()) continue;
        if (!whole) {                                           // a key frame that was none: decode from the start, which is exact
            from_start = true;
            continue;
        }
        if (broken_ || damaged)
            refuse(when(numbers[next]), " cannot be decoded", because(), "; the file is damaged there, choose a part before it or repair the file");
        // A packet without a picture of its own, and no error: VP8's invisible references, the second field of a picture,
        // pictures that lean on something cut away. What stands on the screen at that time is the picture before it.
        int64_t other = wanted[next];
        while (other >= 0 && !seen[size_t(other)]) other--;
        if (other < 0) other = std::find(seen.begin(), seen.end(), true) - seen.begin();
        if (other == total() || replaced[next])
            refuse(when(numbers[next]), " cannot be decoded", because(), "; the file is damaged, copy or download it again");
        wanted[next] = other, replaced[next] = true;
    }
    return frames;
}

// ---- folders of frames
struct Folder {
    std::vector<std::string> files;
    explicit Folder(const std::string& path) {
        std::error_code failure;
        for (const auto& entry : std::filesystem::directory_iterator(path, failure)) {
            std::string type = entry.path().extension().string();
            for (char& c : type) c = char(std::tolower(static_cast<unsigned char>(c)));
            if (type == ".jpg" || type == ".jpeg" || type == ".png") files.push_back(entry.path().string());
        }
        if (failure) fail(Exit::bad_data, path, ": the folder cannot be read (", failure.message(), "); check its permissions");
        if (files.empty()) fail(Exit::bad_data, path, ": is a folder without frames (*.jpg, *.jpeg, *.png); give a video file or a folder of pictures");
        std::sort(files.begin(), files.end());
    }
    Tensor read(const std::vector<int64_t>& numbers) const {
        Tensor frames;
        for (size_t i = 0; i < numbers.size(); i++) {
            const std::string& file = files[size_t(numbers[i])];
            const Tensor image = read_image(file);
            if (!frames) frames = Tensor({int64_t(numbers.size()), image.dim(0), image.dim(1), 3}, DType::u8, Device::cpu);
            if (image.dim(0) != frames.dim(1) || image.dim(1) != frames.dim(2))
                fail(Exit::bad_data, file, ": is ", image.dim(1), " x ", image.dim(0), " pixels, but the frames before it are ", frames.dim(2), " x ",
                     frames.dim(1), "; all frames of a folder must have one size");
            frames.slice(int64_t(i), int64_t(i) + 1).copy_from(image.reshape({1, image.dim(0), image.dim(1), 3}));
        }
        return frames;
    }
};

// numpy.linspace(first, last, count, dtype=int): one multiplication, one addition, the last value set, then floored.
std::vector<int64_t> linspace(double first, double last, int count) {
    std::vector<int64_t> y;
    const double steps = count - 1, span = last - first, step = span / steps;
    for (int i = 0; i < count; i++) {
        double v = count == 1 ? first : step == 0 ? i / steps * span + first : i * step + first;
        if (count > 1 && i == count - 1) v = last;
        y.push_back(int64_t(std::floor(v)));
    }
    return y;
}

bool given(const std::optional<double>& seconds) { return seconds && !std::isnan(*seconds); }

}

std::vector<int64_t> sample_indices(int64_t total, double fps, int frames, const ClipRange& range) {
    CHECK(total > 0 && frames > 0, "sample_indices: ", frames, " of ", total, " frames");
    const double last = double(total - 1);
    if (range.end_frame && *range.end_frame >= 0) {
        if (*range.end_frame > total - 1) warn("end frame ", *range.end_frame, " lies past the last one: ", total - 1, " is used");
        if (given(range.start) || given(range.end)) warn("an end frame is given: the clip's start and end in seconds are not used");
        return linspace(0, std::min(last, double(*range.end_frame)), frames);
    }
    const bool bounded = given(range.start) || given(range.end);
    if (!(fps > 0) || !std::isfinite(fps)) {
        if (bounded) fail(Exit::bad_data, "its frame rate is not known, so a start or end in seconds means nothing; leave them out or use --end-frame");
        return linspace(0, last, frames);
    }
    const double seconds = double(total) / fps, start = given(range.start) ? *range.start : 0, end = given(range.end) ? *range.end : seconds;
    if (start < 0) fail(Exit::bad_data, "the clip cannot start at ", start, " s; give a start of 0 or more");
    if (start >= seconds) fail(Exit::bad_data, "the clip starts at ", start, " s, but the video is only ", seconds, " s long; give an earlier start");
    if (end <= start) fail(Exit::bad_data, "the clip ends at ", end, " s, not after its start at ", start, " s; give a later end");
    if (end > seconds) warn("the clip's end at ", end, " s lies past the last frame: ", seconds, " s is used");
    std::vector<int64_t> indices = linspace(start * fps, std::min(last, end * fps - 1), frames);
    // The reference subtracts one frame from the end, so a clip shorter than a frame at the very start would reach -1, which
    // decord takes for the last frame: here it shows frame 0. A start just below the length may round up to it.
    for (int64_t& i : indices) i = std::clamp<int64_t>(i, 0, total - 1);
    return indices;
}

namespace {

template <class Source>
Clip take(const std::string& path, Source& source, int64_t total, double fps, double sampling_fps, int frames, const ClipRange& range) {
    Clip clip;
    clip.fps = fps, clip.total_frames = total;
    try {
        clip.indices = sample_indices(total, sampling_fps, frames, range);
    } catch (const Error& e) {
        fail(e.code, path, ": ", e.what());
    }
    std::vector<int64_t> distinct = clip.indices;
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    for (int64_t i : clip.indices) clip.grid.push_back(int32_t(std::lower_bound(distinct.begin(), distinct.end(), i) - distinct.begin()));
    MemTag tag("frames");
    clip.frames = source.read(distinct);
    return clip;
}

}

Clip read_clip(const std::string& path, int frames, const ClipRange& range, const DecodeLimits& limits) {
    CHECK(frames > 0, "read_clip: ", frames, " frames");
    const profile::Range stage("decode video");
    const bool bounded = given(range.start) || given(range.end);
    if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
        if (range.frames_fps && !(*range.frames_fps > 0 && std::isfinite(*range.frames_fps)))
            fail(Exit::usage, "--frames-fps takes a rate above 0, not ", *range.frames_fps);
        if (bounded && !range.frames_fps && range.end_frame.value_or(-1) < 0)
            fail(Exit::bad_data, path, ": is a folder of frames, which has no frame rate; give it with --frames-fps, or leave out the times in seconds");
        const Folder folder(path);
        const double fps = range.frames_fps.value_or(0);
        return take(path, folder, int64_t(folder.files.size()), fps, bounded ? fps : 0, frames, range);
    }
    check_regular_file(path);
    if (range.frames_fps) warn(path, " has a frame rate of its own: --frames-fps is not used");
    Video video(path, limits);
    // the reference spreads a GIF over its frames without going through seconds, which can round otherwise
    return take(path, video, video.total(), video.fps(), video.is_gif() && !bounded ? 0 : video.fps(), frames, range);
}

Clip still_clip(const std::string& path, int frames) {
    CHECK(frames > 0, "still_clip: ", frames, " frames");
    const profile::Range stage("decode image");
    MemTag tag("frames");
    const Tensor image = read_image(path);
    Clip clip;
    clip.frames = image.reshape({1, image.dim(0), image.dim(1), 3});
    clip.grid.assign(size_t(frames), 0);
    clip.indices.assign(size_t(frames), 0);
    return clip;
}

std::string ffmpeg_version() { return av_version_info(); }

}
