// The directory of a zip archive: where each entry's bytes lie. Only what torch.save writes is read further: entries stored as
// they are, in one file, neither encrypted nor compressed. Layout: PKWARE's APPNOTE, sections 4.3 to 4.5 (zip64 included).
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace merv {

struct ZipEntry {
    uint64_t begin = 0, bytes = 0;              // of the entry's data, counted from the start of the archive
    uint32_t crc = 0;
    bool compressed = false;                    // then these are the compressed bytes
};

// By name. Every entry lies inside the archive, before the directory, and overlaps no other; names are relative and there once.
// Error(Exit::bad_weights), beginning with `where`, for everything else. Checksums are not compared.
std::map<std::string, ZipEntry> read_zip_directory(std::span<const std::byte> archive, const std::string& where);

}
