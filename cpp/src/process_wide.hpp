// What a process has one of, behind a lock.
#pragma once

#if defined(__unix__)
#include <pthread.h>
#endif

namespace h2learn {

/// The process's only T, made on first use. Never destroyed: tensors and threads may outlive static
/// objects. T has mutex(), which is held while the process forks, so that a child does not inherit
/// the lock from a thread that it does not have.
template <typename T>
T& process_wide() {
  static T* const only = [] {
    T* const made = new T;
#if defined(__unix__)
    pthread_atfork([] { process_wide<T>().mutex().lock(); },
                   [] { process_wide<T>().mutex().unlock(); },
                   [] { process_wide<T>().mutex().unlock(); });
#endif
    return made;
  }();
  return *only;
}

}  // namespace h2learn
