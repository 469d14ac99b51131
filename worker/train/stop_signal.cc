#include "worker/train/stop_signal.h"

#include <csignal>

namespace muster::train {
namespace {

// A signal handler reaches nothing but statics.
volatile std::sig_atomic_t g_received = 0;

void OnSignal(int signal) {
  g_received = 1;
  if (signal == SIGINT) std::signal(SIGINT, SIG_DFL);
}

}  // namespace

StopSignal::StopSignal() {
  g_received = 0;
  std::signal(SIGTERM, OnSignal);
  std::signal(SIGINT, OnSignal);
}

StopSignal::~StopSignal() {
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
}

bool StopSignal::received() const { return g_received != 0; }

}  // namespace muster::train
