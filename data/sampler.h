// In which order a dataset is seen. A pure function of (seed, epoch) and the samples' sizes: workers, resuming and ranks change nothing.
//
// Shuffling is torch.randperm's with torch.Generator().manual_seed(seed + epoch), bit for bit, so orders equal the reference's: DistributedSampler in the align stages,
// SplitModalitySampler (merv.md 5.7) in the others, whose number of ranks is `buckets` here.
#pragma once
#include <cstdint>
#include <vector>

namespace merv {

std::vector<int64_t> randperm(int64_t n, uint64_t seed);        // torch.randperm(n, generator=torch.Generator().manual_seed(seed))

struct SampleSize { int64_t words = 0; bool multimodal = false; };
struct SamplerOptions {
    int64_t global_batch = 128;
    int64_t seed = 7, buckets = 8;              // buckets divides global_batch
    bool shuffle = true;                        // false: the order of the file
    bool by_modality = true;                    // each global batch is of one kind, its samples sorted into buckets of like length
};

class Sampler {
  public:
    Sampler(const SamplerOptions& options, std::vector<SampleSize> sizes);     // CHECKs that there are samples
    int64_t batches() const { return batches_; }                               // in an epoch; the last of a kind is filled from that kind's first
    std::vector<int64_t> order(int64_t epoch) const;                           // batches() global batches, one behind the other: indices of samples

  private:
    SamplerOptions options_;
    std::vector<SampleSize> sizes_;
    std::vector<int64_t> kinds_[2];             // indices of text-only and of multimodal samples; all in the second unless by_modality
    int64_t batches_ = 0;
};

}
