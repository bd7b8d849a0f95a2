/*
** For tests that have every allocation of the trainer's C fail once: `granted` says how many are still given. Not with
** sanitizers, and not with other C libraries than glibc: FAILING_MALLOC tells.
*/
#ifndef TESTS_FAILING_MALLOC_H
#define TESTS_FAILING_MALLOC_H

#include <stdbool.h>
#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#if defined(__GLIBC__) && !defined(SANITIZED)
#define FAILING_MALLOC 1

void *__libc_calloc(size_t, size_t);
void *__libc_memalign(size_t, size_t);

static volatile long granted = -1;   /* allocations of this program that are still granted; negative: all */

extern const char __executable_start, etext;

static bool refused(const void *caller) {
  if ((const char *)caller < &__executable_start || (const char *)caller >= &etext) return false;
  if (granted > 0) granted--;
  else if (granted == 0) {
    granted = -1;
    return true;
  }
  return false;
}

#define REFUSED refused(__builtin_return_address(0))

void *calloc(size_t count, size_t size) { return REFUSED ? NULL : __libc_calloc(count, size); }
void *aligned_alloc(size_t to, size_t size) { return REFUSED ? NULL : __libc_memalign(to, size); }
#endif

#endif
