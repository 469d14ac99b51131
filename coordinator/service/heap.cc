#include "coordinator/service/heap.h"

#include <malloc.h>

namespace muster::coordinator {

void KeepFreedMemory() {
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_TOP_PAD, 4 << 20);
  // Not pages of its own for each large block, which would be cleared and given back every time.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
}

}  // namespace muster::coordinator
