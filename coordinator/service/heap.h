#pragma once

namespace muster::coordinator {

// From now on the C library keeps what is freed, up to 256 MiB, and takes more in large steps: each
// batch of the state thread frees about as much as the next one takes. Before the first thread.
void KeepFreedMemory();

}  // namespace muster::coordinator
