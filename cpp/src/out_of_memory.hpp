// Memory that the system did not give.
#pragma once

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <new>

namespace h2learn {

/// A std::bad_alloc that says what the memory was for and what needs less. Python gets it as
/// MemoryError with this text.
class OutOfMemory : public std::bad_alloc {
 public:
  OutOfMemory(const char* purpose, std::int64_t bytes) {
    std::snprintf(message_, sizeof message_,
                  "no memory for %s of %" PRId64
                  " bytes: fewer samples or timesteps at once, or smaller layers, need less",
                  purpose, bytes);
  }
  const char* what() const noexcept override { return message_; }

 private:
  char message_[192];  ///< in the exception itself: there is no memory to allocate
};

}  // namespace h2learn
