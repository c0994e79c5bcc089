// Any bytes as a file of torch.save: refused with an Error, or every tensor can be read from inside the bytes.
#include <cstdlib>
#include "core/check.h"
#include "weights/pickle.h"
#include "weights/torch_pickle.h"

using namespace merv;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    try {
        const auto file = TorchFile::parse(bytes, "fuzz");
        for (const auto& [name, e] : file->entries()) {
            if (e.begin != 0 || e.end % dtype_bytes(e.dtype)) std::abort();
            std::vector<std::byte> out(std::min<size_t>(e.end, 1 << 16));
            const size_t whole = out.size() / dtype_bytes(e.dtype) * dtype_bytes(e.dtype);
            file->read(name, 0, whole, out.data());             // the first and the last of it
            file->read(name, e.end - whole, e.end, out.data());
            try { file->check(name); } catch (const Error&) {}
        }
    } catch (const Error&) {
    }
    try {                                       // and the pickle alone, which a checksum guards above
        const Pickle p = read_pickle(bytes, "fuzz", size % 2);
        if (p.bytes > size || p.root >= p.values.size()) std::abort();
        for (const PickleValue& v : p.values) for (const uint32_t i : v.items) if (i >= p.values.size()) std::abort();
    } catch (const Error&) {
    }
    return 0;
}
