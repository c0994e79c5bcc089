// A reader of pickles that runs nothing. Python's own would import and call whatever the file names; here the few globals that
// tensors need are each a case in a table, and any other is an error with its name. What comes out is a graph of plain values.
// Opcodes: CPython's Lib/pickletools.py, protocols 2 to 5 as torch.save writes them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace merv {

struct PickleValue {
    enum Kind : uint8_t {
        none, boolean, integer, real, string,
        tuple, list,                            // items
        dict,                                   // items: key, value, key, value, ...
        opaque,                                 // something that holds no tensor: torch.device, a numpy scalar, bytes
        global,                                 // text: "torch.FloatStorage"
        storage,                                // items: what the persistent id lists after "storage": type, key, location, elements[, view]
        tensor,                                 // items: storage, offset, sizes, strides[, dtype]
        record,                                 // an object of a TorchScript class; items: its attributes, a dict, once it has them
    };
    Kind kind = none;
    bool typed = false;                         // tensor: the last item is its dtype (torch's _rebuild_tensor_v3)
    uint16_t meaning = 0;                       // global: which
    int64_t number = 0;                         // boolean, integer
    std::string_view text = {};                 // string, global: bytes of the pickle
    std::vector<uint32_t> items = {};           // indices into Pickle::values
};

struct Pickle {
    std::vector<PickleValue> values;
    uint32_t root = 0;
    size_t bytes = 0;                           // up to and with the final STOP
    const PickleValue& operator[](uint32_t i) const { return values[i]; }

    // The dtype (as safetensors calls it) that a global stands for: torch.FloatStorage and torch.float32 are "F32". "" if
    // torch has it and we do not; "?" for torch.storage.UntypedStorage, whose elements are bytes; null if it is no type at all.
    const char* dtype(const PickleValue& v) const;
};

// One pickle from the start of `bytes`; the values' texts point into them. `script`: classes named __torch__.* are allowed, as
// records. Error(Exit::bad_weights), beginning with `where`, for everything that is not data. Nothing is recursive, and no more
// is allocated than the bytes read can fill: at most 2^20 values.
Pickle read_pickle(std::span<const std::byte> bytes, const std::string& where, bool script = false);

}
