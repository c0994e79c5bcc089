#include "weights/zip.h"
#include <algorithm>
#include <vector>
#include "core/json.h"

namespace merv {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr uint64_t kEndBytes = 22, kEnd64Bytes = 56, kLocator64Bytes = 20, kCentralBytes = 46, kLocalBytes = 30;
constexpr uint32_t kIn64 = 0xffffffff;          // "the value stands in the zip64 record"

class Archive {
  public:
    Archive(std::span<const std::byte> bytes, const std::string& where) : bytes_(bytes), where_(where) {}

    std::map<std::string, ZipEntry> read() {
        const Directory d = directory();
        if (d.count > d.bytes / kCentralBytes) bad("a directory of ", d.bytes, " bytes for ", d.count, " entries");
        uint64_t at = d.begin;
        for (uint64_t i = 0; i < d.count; i++) at = entry(at, d);
        if (at != d.begin + d.bytes) bad("its directory has ", d.bytes, " bytes, its entries take ", at - d.begin);
        std::sort(places_.begin(), places_.end(), [](const Place& a, const Place& b) { return a.begin < b.begin; });
        for (size_t i = 1; i < places_.size(); i++) if (places_[i].begin < places_[i - 1].end) bad("the entries ", brief(*places_[i - 1].name), " and ", brief(*places_[i].name), " overlap");
        return std::move(entries_);
    }

  private:
    struct Directory { uint64_t begin, bytes, count; };
    struct Place {                              // an entry with its local header
        uint64_t begin, end;
        const std::string* name;
    };

    template <class... A> [[noreturn]] void bad(const A&... parts) const {
        fail(Exit::bad_weights, where_, ": ", parts..., "; the zip archive is damaged, get it again");
    }
    template <class T> T number(uint64_t at) const {            // little-endian
        if (at > bytes_.size() || bytes_.size() - at < sizeof(T)) bad("it ends at byte ", bytes_.size(), ", inside a header at ", at);
        T v = 0;
        for (size_t i = sizeof(T); i-- > 0;) v = T(uint64_t(v) << 8 | uint64_t(bytes_[at + i]));
        return v;
    }
    auto u16(uint64_t at) const { return number<uint16_t>(at); }
    auto u32(uint64_t at) const { return number<uint32_t>(at); }
    auto u64(uint64_t at) const { return number<uint64_t>(at); }
    void require_signature(uint64_t at, uint32_t signature, const char* what) const {
        if (u32(at) != signature) bad("no ", what, " at byte ", at);
    }

    // The end record is the last thing in the file but for a comment, whose length it tells.
    uint64_t end_record() const {
        const uint64_t size = bytes_.size();
        if (size < kEndBytes) bad("only ", size, " bytes");
        for (uint64_t at = size - kEndBytes, least = size - std::min<uint64_t>(size, kEndBytes + 0xffff);; at--) {
            if (u32(at) == kEnd && u16(at + 20) == size - at - kEndBytes) return at;
            if (at == least) bad("it has no directory at its end: the file is cut short");
        }
    }
    Directory directory() const {
        const uint64_t end = end_record();
        Directory d{u32(end + 16), u32(end + 12), u16(end + 10)};
        uint64_t disks = uint64_t(u16(end + 4)) | u16(end + 6), here = u16(end + 8), after = end;
        if (end >= kLocator64Bytes && u32(end - kLocator64Bytes) == kLocator64) {
            const uint64_t locator = end - kLocator64Bytes;
            after = u64(locator + 8);
            if (after > locator || locator - after < kEnd64Bytes) bad("its zip64 record lies at byte ", after, " of ", bytes_.size());
            require_signature(after, kEnd64, "zip64 record");
            disks = uint64_t(u32(after + 16)) | u32(after + 20) | u32(locator + 4);
            here = u64(after + 24), d = {u64(after + 48), u64(after + 40), u64(after + 32)};
        }
        if (disks != 0 || here != d.count) bad("it is one of several parts");
        if (d.begin > after || after - d.begin != d.bytes) bad("its directory, ", d.bytes, " bytes at ", d.begin, ", does not end at ", after);
        return d;
    }

    // Of the extra field, a list of (u16 id, u16 length, data): the 64-bit values that the fixed fields refer to, in order.
    void read_zip64(uint64_t at, uint64_t end, std::initializer_list<uint64_t*> values) const {
        while (end - at >= 4) {
            const uint64_t id = u16(at), length = u16(at + 2), data = at + 4;
            if (length > end - data) bad("an extra field at byte ", at, " is longer than the entry's");
            at = data + length;
            if (id != 1) continue;
            uint64_t next = data;
            for (uint64_t* v : values) {
                if (*v != kIn64) continue;
                if (at - next < 8) bad("a zip64 field at byte ", data, " is too short");
                *v = u64(next), next += 8;
            }
            return;
        }
    }

    uint64_t entry(uint64_t at, const Directory& d) {           // returns where the next one is
        const uint64_t limit = d.begin + d.bytes;
        if (limit - at < kCentralBytes) bad("its directory ends inside an entry");
        require_signature(at, kCentral, "directory entry");
        const uint32_t flags = u16(at + 8), method = u16(at + 10);
        const uint64_t name_bytes = u16(at + 28), extra_bytes = u16(at + 30), comment_bytes = u16(at + 32), extra = at + kCentralBytes + name_bytes;
        if (limit - at - kCentralBytes < name_bytes + extra_bytes + comment_bytes) bad("its directory ends inside an entry");
        const std::string name(reinterpret_cast<const char*>(bytes_.data()) + at + kCentralBytes, name_bytes);
        uint64_t packed = u32(at + 20), bytes = u32(at + 24), local = u32(at + 42);
        const uint32_t disk = u16(at + 34);
        read_zip64(extra, extra + extra_bytes, {&bytes, &packed, &local});
        if (disk != 0 && disk != 0xffff) bad("the entry ", brief(name), " lies in another part");
        if (flags & 1) fail(Exit::bad_weights, where_, ": the entry ", brief(name), " is encrypted, which is not supported");
        require_name(name);
        if (method == 0 && packed != bytes) bad("the entry ", brief(name), " has ", bytes, " bytes, stored in ", packed);

        if (local > d.begin || d.begin - local < kLocalBytes) bad("the entry ", brief(name), " begins at byte ", local, ", not before the directory at ", d.begin);
        require_signature(local, kLocal, "header of an entry");
        const uint64_t local_name = u16(local + 26), data = local + kLocalBytes + local_name + u16(local + 28);    // the local extra field pads, and is not the directory's
        if (data > d.begin || d.begin - data < packed) bad("the entry ", brief(name), ", ", packed, " bytes at ", data, ", runs into the directory at ", d.begin);
        if (local_name != name_bytes || !std::equal(name.begin(), name.end(), reinterpret_cast<const char*>(bytes_.data()) + local + kLocalBytes))
            bad("the entry ", brief(name), " has another name at its own place");
        const auto [place, is_new] = entries_.emplace(name, ZipEntry{data, packed, u32(at + 16), method != 0});
        if (!is_new) bad("the name ", brief(name), " is there twice");
        places_.push_back({local, data + packed, &place->first});
        return extra + extra_bytes + comment_bytes;
    }
    void require_name(const std::string& name) const {
        bool plain = !name.empty() && name[0] != '/' && name.find('\\') == name.npos && name.find('\0') == name.npos;
        for (size_t at = 0; plain && at <= name.size();) {
            const size_t end = std::min(name.find('/', at), name.size());
            plain = name.compare(at, end - at, "..") != 0;
            at = end + 1;
        }
        if (!plain) bad("the name \"", brief(name), "\" leads out of the archive");
    }

    std::span<const std::byte> bytes_;
    const std::string& where_;
    std::map<std::string, ZipEntry> entries_;
    std::vector<Place> places_;
};

}

std::map<std::string, ZipEntry> read_zip_directory(std::span<const std::byte> archive, const std::string& where) { return Archive(archive, where).read(); }

}
