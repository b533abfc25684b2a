/* Hides AVX-512 and AMX from what asks the processor after `hide()`: with the CPUID instruction made to fault, this
   answers in its place. Linux on x86-64, where the processor can do that. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { set_cpuid = 0x1012 }; /* of arch_prctl */

static int allow(long cpuid) { return (int)syscall(SYS_arch_prctl, set_cpuid, cpuid); }

static void answer(int number, siginfo_t* info, void* context) {
  greg_t* r = ((ucontext_t*)context)->uc_mcontext.gregs;
  unsigned leaf = (unsigned)r[REG_RAX], sub = (unsigned)r[REG_RCX], a, b, c, d;
  (void)info;
  if (memcmp((const void*)r[REG_RIP], "\x0f\xa2", 2)) { /* not CPUID: a fault of its own */
    signal(number, SIG_DFL);
    return;
  }
  allow(1);
  __cpuid_count(leaf, sub, a, b, c, d);
  allow(0);
  if (leaf == 7 && sub == 0) {
    b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
    c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
    d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
  }
  if (leaf == 7 && sub == 1) a &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 22 | 1u << 23);
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
  r[REG_RIP] += 2;
}

int hide(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = answer;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, 0);
  return allow(0);
}

int show(void) { return allow(1); }
