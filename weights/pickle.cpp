#include "weights/pickle.h"
#include <algorithm>
#include "core/json.h"
#include "core/log.h"

namespace merv {
namespace {

constexpr size_t kMostValues = size_t(1) << 20, kMostMarks = 1000, kMostName = 1000;
constexpr uint32_t kUnset = UINT32_MAX;

// What is done when the global is called. Nothing is looked up by its name outside this table.
enum class Does {
    dict,                                       // collections.OrderedDict
    tensor, tensor_v3,
    first,                                      // the first argument stands for the result
    opaque,
    type,                                       // a storage class or dtype: never called
    record,                                     // a TorchScript class
};
struct Global { const char* name; Does does; const char* dtype = nullptr; };
constexpr Global kGlobals[] = {
    {"collections.OrderedDict", Does::dict},
    {"torch._utils._rebuild_tensor", Does::tensor}, {"torch._utils._rebuild_tensor_v2", Does::tensor}, {"torch._utils._rebuild_tensor_v3", Does::tensor_v3},
    {"torch._utils._rebuild_parameter", Does::first}, {"torch._utils._rebuild_parameter_with_state", Does::first}, {"torch.Size", Does::first},
    {"torch.jit._pickle.build_intlist", Does::first}, {"torch.jit._pickle.build_doublelist", Does::first}, {"torch.jit._pickle.build_boollist", Does::first},
    {"torch.jit._pickle.build_tensorlist", Does::first}, {"torch.jit._pickle.restore_type_tag", Does::first},
    {"torch.device", Does::opaque}, {"_codecs.encode", Does::opaque}, {"argparse.Namespace", Does::opaque}, {"numpy.dtype", Does::opaque},
    {"numpy.core.multiarray.scalar", Does::opaque}, {"numpy._core.multiarray.scalar", Does::opaque},
    {"torch.FloatStorage", Does::type, "F32"}, {"torch.DoubleStorage", Does::type, "F64"}, {"torch.HalfStorage", Does::type, "F16"},
    {"torch.BFloat16Storage", Does::type, "BF16"}, {"torch.LongStorage", Does::type, "I64"}, {"torch.IntStorage", Does::type, "I32"},
    {"torch.ShortStorage", Does::type, "I16"}, {"torch.CharStorage", Does::type, "I8"}, {"torch.ByteStorage", Does::type, "U8"},
    {"torch.BoolStorage", Does::type, "BOOL"}, {"torch.ComplexFloatStorage", Does::type, "C64"}, {"torch.ComplexDoubleStorage", Does::type, ""},
    {"torch.QInt8Storage", Does::type, ""}, {"torch.QUInt8Storage", Does::type, ""}, {"torch.QInt32Storage", Does::type, ""},
    {"torch.QUInt4x2Storage", Does::type, ""}, {"torch.QUInt2x4Storage", Does::type, ""},
    {"torch.storage.UntypedStorage", Does::type, "?"}, {"torch.storage._UntypedStorage", Does::type, "?"}, {"torch.UntypedStorage", Does::type, "?"},
    {"torch.float32", Does::type, "F32"}, {"torch.float64", Does::type, "F64"}, {"torch.float16", Does::type, "F16"}, {"torch.bfloat16", Does::type, "BF16"},
    {"torch.int64", Does::type, "I64"}, {"torch.int32", Does::type, "I32"}, {"torch.int16", Does::type, "I16"}, {"torch.int8", Does::type, "I8"},
    {"torch.uint8", Does::type, "U8"}, {"torch.uint16", Does::type, "U16"}, {"torch.uint32", Does::type, "U32"}, {"torch.uint64", Does::type, "U64"},
    {"torch.bool", Does::type, "BOOL"}, {"torch.complex64", Does::type, "C64"}, {"torch.complex128", Does::type, ""}, {"torch.complex32", Does::type, ""},
    {"torch.float8_e4m3fn", Does::type, "F8_E4M3"}, {"torch.float8_e5m2", Does::type, "F8_E5M2"}, {"torch.float8_e4m3fnuz", Does::type, ""},
    {"torch.float8_e5m2fnuz", Does::type, ""}, {"torch.qint8", Does::type, ""}, {"torch.quint8", Does::type, ""}, {"torch.qint32", Does::type, ""},
};
constexpr uint16_t kRecord = 0xffff;            // PickleValue::meaning of a TorchScript class
Does does(const PickleValue& global) { return global.meaning == kRecord ? Does::record : kGlobals[global.meaning].does; }

class Machine {
  public:
    Machine(std::span<const std::byte> bytes, const std::string& where, bool script) : bytes_(bytes), where_(where), script_(script) {}

    Pickle run() {
        while (!step(uint8_t(take(1)[0]))) {}
        pickle_.root = pop();
        if (!stack_.empty() || !marks_.empty()) bad("it stops with values left over");
        pickle_.bytes = at_;
        return std::move(pickle_);
    }

  private:
    using Value = PickleValue;

    template <class... A> [[noreturn]] void bad(const A&... parts) const {
        fail(Exit::bad_weights, where_, ": ", parts..., " (pickle, byte ", at_, "); the file is damaged or not weights, get it again");
    }

    // ---- bytes
    std::string_view take(uint64_t n) {
        if (n > bytes_.size() - at_) bad("it ends at byte ", bytes_.size(), ", ", n, " more are wanted: the file is cut short");
        const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + at_, size_t(n));
        at_ += size_t(n);
        return text;
    }
    uint64_t number(size_t n) {                 // little-endian
        const std::string_view text = take(n);
        uint64_t v = 0;
        for (size_t i = n; i-- > 0;) v = v << 8 | uint8_t(text[i]);
        return v;
    }
    std::string_view line() {
        const size_t from = at_;
        while (take(1)[0] != '\n') if (at_ - from > kMostName) bad("a name of more than ", kMostName, " bytes");
        return {reinterpret_cast<const char*>(bytes_.data()) + from, at_ - from - 1};
    }

    // ---- values
    Value& value(uint32_t i) { return pickle_.values[i]; }
    uint32_t make(Value v) {
        if (pickle_.values.size() == kMostValues) bad("more than ", kMostValues, " values");
        pickle_.values.push_back(std::move(v));
        return uint32_t(pickle_.values.size() - 1);
    }
    void push(uint32_t i) {
        if (stack_.size() == kMostValues) bad("a stack of more than ", kMostValues, " values");
        stack_.push_back(i);
    }
    void push(Value v) { push(make(std::move(v))); }
    void push_integer(int64_t v) { push(Value{.kind = Value::integer, .number = v}); }
    void push_text(std::string_view v) { push(Value{.kind = Value::string, .text = v}); }
    uint32_t top() const {
        if (stack_.size() == (marks_.empty() ? 0 : marks_.back())) bad("a value is taken from an empty stack");
        return stack_.back();
    }
    uint32_t pop() {
        const uint32_t i = top();
        stack_.pop_back();
        return i;
    }
    std::vector<uint32_t> pop_to_mark() {
        if (marks_.empty()) bad("no mark");
        std::vector<uint32_t> items(stack_.begin() + std::ptrdiff_t(marks_.back()), stack_.end());
        stack_.resize(marks_.back()), marks_.pop_back();
        return items;
    }
    void push_tuple(size_t n) {
        std::vector<uint32_t> items(n);
        for (size_t i = n; i-- > 0;) items[i] = pop();
        push(Value{.kind = Value::tuple, .items = std::move(items)});
    }
    // Into the list or dict on top of the stack.
    void extend(Value::Kind kind, const std::vector<uint32_t>& items) {
        Value& target = value(top());
        if (target.kind != kind) bad("items for something that is no ", kind == Value::list ? "list" : "dict");
        if (kind == Value::dict && items.size() % 2) bad("a key without a value");
        count_items(items.size());
        target.items.insert(target.items.end(), items.begin(), items.end());
    }
    void count_items(size_t n) {                // an OrderedDict copies its list, any number of times: it is the sum that must have a limit
        if ((filled_ += n) > kMostValues) bad("more than ", kMostValues, " items");
    }
    void remember(uint64_t slot) {
        if (slot >= kMostValues) bad("the memo's slot ", slot, "; at most ", kMostValues, " are allowed");
        const uint32_t i = top();
        if (slot >= memo_.size()) memo_.resize(size_t(slot) + 1, kUnset);
        memo_[size_t(slot)] = i;
    }
    void recall(uint64_t slot) {
        if (slot >= memo_.size() || memo_[size_t(slot)] == kUnset) bad("nothing was stored in the memo's slot ", slot);
        push(memo_[size_t(slot)]);
    }

    // ---- globals
    void push_global(std::string_view module, std::string_view name) {
        std::string full = concat(module, ".", name);
        if (full.starts_with("torch.cuda.") && full.ends_with("Storage")) full.erase(6, 5);        // where it lay does not matter
        if (script_ && full.starts_with("__torch__.")) return push(Value{.kind = Value::global, .meaning = kRecord, .text = name});
        for (const Global& g : kGlobals)
            if (full == g.name) return push(Value{.kind = Value::global, .meaning = uint16_t(&g - kGlobals), .text = name});
        fail(Exit::bad_weights, where_, ": the pickle asks for ", one_line(concat(module, ".", name)),
             ", which tensors do not need; nothing was run; do not open it with Python either unless you trust its origin");
    }
    static std::string one_line(const std::string& name) {
        std::string text = printable(brief(name));
        std::replace_if(text.begin(), text.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
        return text;
    }
    uint32_t argument(const Value& arguments, size_t i) const {
        if (i >= arguments.items.size()) bad("a call with ", arguments.items.size(), " arguments");
        return arguments.items[i];
    }

    // callable(*arguments); the callable is one of the table.
    void call(uint32_t callable, uint32_t with) {
        if (value(callable).kind != Value::global) bad("a call of something that is no function");
        if (value(with).kind != Value::tuple) bad("a call whose arguments are no tuple");
        const Does what = does(value(callable));
        const Value& arguments = pickle_.values[with];
        switch (what) {
        case Does::first: return push(argument(arguments, 0));
        case Does::opaque: return push(Value{.kind = Value::opaque});
        case Does::tensor: case Does::tensor_v3: {
            Value tensor{.kind = Value::tensor, .typed = what == Does::tensor_v3};
            for (size_t i = 0; i < 4; i++) tensor.items.push_back(argument(arguments, i));
            if (tensor.typed) tensor.items.push_back(argument(arguments, 6));
            return push(std::move(tensor));
        }
        case Does::dict: {                      // OrderedDict(), or with a list of pairs (Python 2)
            Value dict{.kind = Value::dict};
            if (arguments.items.size() > 1) bad("an OrderedDict of ", arguments.items.size(), " arguments");
            if (!arguments.items.empty()) {
                const Value& pairs = pickle_.values[arguments.items[0]];
                if (pairs.kind != Value::list) bad("an OrderedDict of something that is no list");
                for (const uint32_t i : pairs.items) {
                    const Value& pair = pickle_.values[i];
                    if ((pair.kind != Value::list && pair.kind != Value::tuple) || pair.items.size() != 2) bad("an OrderedDict of something that is no pair");
                    dict.items.insert(dict.items.end(), pair.items.begin(), pair.items.end());
                }
                count_items(dict.items.size());
            }
            return push(std::move(dict));
        }
        case Does::type: case Does::record: bad("a call of ", brief(value(callable).text), ", which is a type");
        }
    }
    void make_object(uint32_t type, uint32_t with) {            // type.__new__(type, *arguments)
        if (value(type).kind != Value::global || value(with).kind != Value::tuple) bad("an object of something that is no class");
        if (does(value(type)) == Does::record) return push(Value{.kind = Value::record});
        if (does(value(type)) == Does::opaque) return push(Value{.kind = Value::opaque});
        call(type, with);
    }
    void set_state(uint32_t state) {            // BUILD: the attributes of the object on top
        Value& object = value(top());
        if (object.kind == Value::dict || object.kind == Value::opaque) return;     // OrderedDict's _metadata
        if (object.kind != Value::record) bad("attributes of something that has none");
        if (value(state).kind != Value::dict) bad("attributes that are no dict");
        object.items.assign(1, state);
    }
    void make_storage(uint32_t id) {            // BINPERSID
        const Value& tuple = value(id);
        auto is_text = [&](size_t i) { return tuple.items.size() > i && value(tuple.items[i]).kind == Value::string; };
        if (tuple.kind != Value::tuple || !is_text(0)) bad("a persistent id that is not torch's");
        const std::string_view what = value(tuple.items[0]).text;
        if (what == "module") fail(Exit::bad_weights, where_, ": holds a whole pickled module, which is code; save its state_dict()");
        const bool sound = what == "storage" && (tuple.items.size() == 5 || tuple.items.size() == 6) && is_text(2) && value(tuple.items[1]).kind == Value::global &&
                           value(tuple.items[4]).kind == Value::integer;
        if (!sound) bad("a persistent id that is not torch's: ", brief(what, 40));
        Value storage{.kind = Value::storage};
        storage.items.assign(tuple.items.begin() + 1, tuple.items.end());
        push(std::move(storage));
    }

    // One instruction; true after the last.
    bool step(uint8_t op) {
        switch (op) {
        case 0x80: if (const uint64_t v = number(1); v < 1 || v > 5) bad("pickle protocol ", v); break;
        case 0x95: if (const uint64_t v = number(8); v > bytes_.size() - at_) bad("a frame of ", v, " bytes: the file is cut short"); break;
        case '.': return true;
        case '(':
            if (marks_.size() == kMostMarks) bad("nested deeper than ", kMostMarks, " levels");
            marks_.push_back(stack_.size());
            break;
        case 'N': push(Value{}); break;
        case 0x88: case 0x89: push(Value{.kind = Value::boolean, .number = op == 0x88}); break;
        case 'K': push_integer(int64_t(number(1))); break;
        case 'M': push_integer(int64_t(number(2))); break;
        case 'J': push_integer(int32_t(uint32_t(number(4)))); break;
        case 0x8a: {                            // LONG1: two's complement of any length
            const size_t n = size_t(number(1));
            if (n > 8) bad("an integer of ", n, " bytes");
            const uint64_t v = number(n);
            push_integer(n == 0 || n == 8 ? int64_t(v) : int64_t(v << (64 - 8 * n)) >> (64 - 8 * n));
            break;
        }
        case 'G': take(8), push(Value{.kind = Value::real}); break;
        case 'X': case 'T': push_text(take(number(4))); break;
        case 'U': case 0x8c: push_text(take(number(1))); break;
        case 0x8d: push_text(take(number(8))); break;
        case 'C': take(number(1)), push(Value{.kind = Value::opaque}); break;
        case 'B': take(number(4)), push(Value{.kind = Value::opaque}); break;
        case '}': push(Value{.kind = Value::dict}); break;
        case ']': push(Value{.kind = Value::list}); break;
        case ')': push(Value{.kind = Value::tuple}); break;
        case 't': push(Value{.kind = Value::tuple, .items = pop_to_mark()}); break;
        case 0x85: case 0x86: case 0x87: push_tuple(size_t(op - 0x84)); break;
        case 'a': case 's': {
            std::vector<uint32_t> items = {pop()};
            if (op == 's') items.insert(items.begin(), pop());
            extend(op == 'a' ? Value::list : Value::dict, items);
            break;
        }
        case 'e': extend(Value::list, pop_to_mark()); break;
        case 'u': extend(Value::dict, pop_to_mark()); break;
        case 'q': remember(number(1)); break;
        case 'r': remember(number(4)); break;
        case 0x94: remember(memo_.size()); break;
        case 'h': recall(number(1)); break;
        case 'j': recall(number(4)); break;
        case 'c': {
            const std::string_view module = line();
            push_global(module, line());
            break;
        }
        case 0x93: {
            const uint32_t name = pop(), module = pop();
            if (value(name).kind != Value::string || value(module).kind != Value::string) bad("a global whose name is no text");
            if (value(name).text.size() + value(module).text.size() > kMostName) bad("a name of more than ", kMostName, " bytes");
            push_global(value(module).text, value(name).text);
            break;
        }
        case 'R': case 0x81: {
            const uint32_t with = pop(), what = pop();
            op == 'R' ? call(what, with) : make_object(what, with);
            break;
        }
        case 'b': set_state(pop()); break;
        case 'Q': make_storage(pop()); break;
        default: bad("the opcode ", int(op), ", which no file of tensors has");
        }
        return false;
    }

    std::span<const std::byte> bytes_;
    const std::string& where_;
    bool script_;
    size_t at_ = 0, filled_ = 0;
    Pickle pickle_;
    std::vector<uint32_t> stack_, memo_;
    std::vector<size_t> marks_;
};

}

const char* Pickle::dtype(const PickleValue& v) const {
    return v.kind == PickleValue::global && v.meaning != kRecord ? kGlobals[v.meaning].dtype : nullptr;
}

Pickle read_pickle(std::span<const std::byte> bytes, const std::string& where, bool script) { return Machine(bytes, where, script).run(); }

}
