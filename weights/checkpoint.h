// The tensors of a model folder by name, whether they lie in one file or in shards with an index, in safetensors or in what
// torch.save writes, and the strict loading of them into a model: nothing missing, nothing left over, every shape right.
#pragma once
#include "weights/safetensors.h"

namespace merv {

class Checkpoint {
  public:
    // A folder with model.safetensors, model.safetensors.index.json and its shards, open_clip_model.safetensors, the .bin files
    // of the same three kinds, checkpoints/latest-checkpoint.pt (in this order), or a single .pt or .pth; or the path of one file of weights, or of an .index.json
    // beside its shards. Error(Exit::bad_weights) if there is none or a header is damaged.
    static Checkpoint open(const std::string& path);

    const std::string& path() const { return path_; }       // the file or the index, for messages
    bool has(const std::string& name) const { return items_.count(name) != 0; }
    std::vector<std::string> names() const;                 // sorted
    std::vector<std::string> unused() const;                // names never taken
    const TensorEntry& entry(const std::string& name) const;
    const std::map<std::string, std::string>& metadata() const { return files_.front()->metadata(); }
    size_t bytes() const;                                   // of all tensors as TensorFile::tensor returns them (F16 counts as f32)
    Tensor take(const std::string& name);                   // booked under "weights"; the name counts as used from here on
    const std::string& stored(const std::string& name) const { return item(name).stored; }     // its name in the file
    void read(const std::string& name, size_t begin, size_t end, std::byte* out) const { file(name).read(stored(name), begin, end, out); }
    void check(const std::string& name) const { file(name).check(stored(name)); }       // these two as TensorFile's
    void forget(const std::string& name) const { file(name).forget(stored(name)); }

    // Every tensor gets the name that name_of() returns for it; those it returns "" for are left out.
    void rename(const std::function<std::string(const std::string&)>& name_of);
    void replace(const std::string& name, const Tensor& values);   // f32 or bf16; there before or not

    // Files of the same model differ in a wrapper around its names ("vision_model.", "visual.trunk."). Looks for `wanted`, a
    // name every such model has: if it is there as it stands nothing changes, else the first wrapper under which it is found
    // is taken off every name that starts with it. Names outside the wrapper stand as they are. Returns what was taken off.
    std::string strip_prefix(const std::vector<std::string>& wrappers, const std::string& wanted);

  private:
    struct Item { size_t file; std::string stored; bool used = false; };
    const Item& item(const std::string& name) const;
    const TensorFile& file(const std::string& name) const { return *files_[item(name).file]; }
    std::string path_;
    std::vector<std::shared_ptr<const TensorFile>> files_;
    std::map<std::string, Item> items_;
};

// Writes FOLDER/model.safetensors, or above `most` bytes shards of at most that and the index, as Hugging Face names them.
// What an earlier call left in the folder under such names is removed first.
void write_checkpoint(const std::string& folder, std::span<const TensorSpec> tensors, const TensorValues& values,
                      const std::map<std::string, std::string>& metadata = {}, size_t most = 5'000'000'000);

struct Wanted { std::string name; Tensor* tensor; };        // the tensor is declared: its shape is known, its bytes are not

// Every wanted tensor is in the file in its shape and in a dtype that fits; every name of the file is wanted, is an integer or
// boolean buffer, or matches `known_unused` (exact names, or with one '*': "head.*", "*.inv_freq"). Otherwise
// Error(Exit::bad_weights) with the first ten names on each side. `what` names the model in messages ("the DINOv2 encoder").
void require_match(const Checkpoint& file, const std::vector<Wanted>& wanted, const std::vector<std::string>& known_unused, const std::string& what);
bool matches(const std::string& name, const std::string& pattern);     // a name as in known_unused

// Binds every wanted tensor to the file's values, after require_match: before anything is read. The dtype becomes the file's
// (f32 or bf16; F16 is widened to f32).
void load_strict(Checkpoint& file, const std::vector<Wanted>& wanted, const std::vector<std::string>& known_unused, const std::string& what);

}
