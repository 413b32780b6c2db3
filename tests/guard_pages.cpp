// Tensors' memory on the CPU, with an inaccessible page right behind each tensor and NaNs in it:
// what reads or writes beyond a tensor, or after its end, ends the process. Used by guard_pages.sh.
#include <dlfcn.h>
#include <errno.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t kPage = 4096, kPages = size_t(1) << 26;  // 256 GB of addresses

template <class T>
T* reserve(size_t count, int access) {
  void* data =
      mmap(nullptr, count * sizeof(T), access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) abort();
  return static_cast<T*>(data);
}

struct Page {
  char bytes[kPage];
};

Page* all() {
  static Page* const pages = reserve<Page>(kPages, PROT_NONE);
  return pages;
}

// Of the tensor that begins in a page: how many it has.
uint32_t& count_of(size_t page) {
  static auto* const counts = reserve<uint32_t>(kPages, PROT_READ | PROT_WRITE);
  return counts[page];
}

}  // namespace

// As torch allocates tensors: 64 bytes aligned. These are 16 bytes aligned, so as to end at the
// page.
extern "C" int posix_memalign(void** data, size_t alignment, size_t bytes) {
  if (alignment != 64 || bytes == 0) {
    *data = aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
    return *data ? 0 : ENOMEM;
  }
  static std::atomic<size_t> next = 0;
  const size_t count = (bytes + kPage - 1) / kPage;
  const size_t page = next.fetch_add(count + 1);
  if (page + count >= kPages) return ENOMEM;
  Page* begin = all() + page;
  if (mprotect(begin, count * kPage, PROT_READ | PROT_WRITE)) return errno;
  memset(begin, 0xff, count * kPage);
  count_of(page) = uint32_t(count);
  *data = begin[count].bytes - (bytes + 15) / 16 * 16;
  return 0;
}

extern "C" void free(void* data) {
  static const auto real = reinterpret_cast<void (*)(void*)>(dlsym(RTLD_NEXT, "free"));
  const size_t page = size_t(static_cast<char*>(data) - all()->bytes) / kPage;
  if (data < all() || page >= kPages) return real(data);
  // Given back, and forbidden from now on.
  mmap(all() + page, count_of(page) * kPage, PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}
