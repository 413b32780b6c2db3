#include "buffer.h"

#include <sys/mman.h>

#include <new>
#include <vector>

namespace fastrnn::cpu {
namespace {

constexpr std::align_val_t kAlign{64};
// A sanitizer sees no use after free, and no end, of memory that is handed out again.
#if defined(__has_feature)  // as Clang says it
#if __has_feature(address_sanitizer)
#define FRNN_ASAN
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define FRNN_ASAN
#endif
#if defined(FRNN_ASAN)
constexpr size_t kKept = 0;
#else
constexpr size_t kKept = kKeptBytes;
#endif
constexpr size_t kMost = 128;  // blocks: a training step of both directions has about 35

// The freed blocks of a thread, the oldest first.
class Kept {
 public:
  Kept() { blocks_.reserve(kMost + 1); }
  Kept(const Kept&) = delete;
  ~Kept() {
    for (const Block& block : blocks_) operator delete(block.data, kAlign);
  }

  // The smallest one that fits and is not more than twice as large; empty if there is none.
  Block take(size_t bytes) {
    auto best = blocks_.end();
    for (auto i = blocks_.begin(); i != blocks_.end(); ++i) {
      if (bytes <= i->bytes && i->bytes / 2 <= bytes &&
          (best == blocks_.end() || i->bytes < best->bytes)) {
        best = i;
      }
    }
    if (best == blocks_.end()) return {};
    const Block found = *best;
    blocks_.erase(best);
    total_ -= found.bytes;
    return found;
  }

  // Frees the oldest ones that there is no room for.
  void give(Block block) {
    if (block.bytes > kKept) return operator delete(block.data, kAlign);
    blocks_.push_back(block);
    total_ += block.bytes;
    while (total_ > kKept || blocks_.size() > kMost) {
      total_ -= blocks_.front().bytes;
      operator delete(blocks_.front().data, kAlign);
      blocks_.erase(blocks_.begin());
    }
  }

 private:
  std::vector<Block> blocks_;
  size_t total_ = 0;
};

thread_local Kept kept;

}  // namespace

void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHuge = uintptr_t(2) << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHuge * kHuge;
  if (data && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

Block take_block(size_t bytes) {
  if (const Block block = kept.take(bytes); block.data) return block;
  const Block block{operator new(bytes, kAlign), bytes};
  prefer_huge_pages(block.data, bytes);
  return block;
}

void give_block(Block block) noexcept {
  if (block.data) kept.give(block);
}

}  // namespace fastrnn::cpu
