/* Prints the powers of ten that decimal.c needs, each as the leading 128 bits of its binary expansion, cut off (not
 * rounded). Runs at build time, with exact big-integer arithmetic, so that no table has to be trusted or committed.
 *
 *     gen_pow10 > build/pow10.h
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { FIRST = -342, LAST = 324, LIMBS = 40 };

/* Little-endian limbs of 32 bits; 40 of them hold 5^342 (795 bits) and everything derived from it. */
typedef struct {
  uint32_t limb[LIMBS];
} big;

static void multiply(big *n, uint32_t factor) {
  uint64_t carry = 0;
  for (int i = 0; i < LIMBS; i++) {
    carry += (uint64_t)n->limb[i] * factor;
    n->limb[i] = (uint32_t)carry;
    carry >>= 32;
  }
}

static int bit(const big *n, int i) {
  return i >= 0 ? (int)(n->limb[i / 32] >> (i % 32) & 1) : 0;
}

static int bit_length(const big *n) {
  int i = LIMBS * 32;
  while (i > 0 && !bit(n, i - 1)) i--;
  return i;
}

static void shift_in(big *n, uint32_t low_bit) {
  for (int i = 0; i < LIMBS; i++) {
    uint32_t out = n->limb[i] >> 31;
    n->limb[i] = n->limb[i] << 1 | low_bit;
    low_bit = out;
  }
}

/* Subtracts when that does not go below zero; tells whether it did. */
static int subtract_if_fits(big *n, const big *amount) {
  big result;
  int64_t borrow = 0;
  for (int i = 0; i < LIMBS; i++) {
    int64_t d = (int64_t)n->limb[i] - (int64_t)amount->limb[i] + borrow;
    result.limb[i] = (uint32_t)d;
    borrow = d < 0 ? -1 : 0;
  }
  if (borrow) return 0;
  *n = result;
  return 1;
}

static void print_entry(const uint64_t word[2], int exponent) {
  printf("  {UINT64_C(0x%016llx), UINT64_C(0x%016llx)}, /* 1e%d */\n", (unsigned long long)word[0],
         (unsigned long long)word[1], exponent);
}

/* Factors of two only move the binary point, so 5^n gives the bits of 10^n. */
static void positive_power(int n) {
  big five = {{1}};
  for (int i = 0; i < n; i++) multiply(&five, 5);
  uint64_t word[2] = {0, 0};
  int top = bit_length(&five) - 1;
  for (int i = 0; i < 128; i++) word[i / 64] = word[i / 64] << 1 | (uint64_t)bit(&five, top - i);
  print_entry(word, n);
}

/* Long division of a power of two by 5^n, one bit of the quotient at a time, beginning with its first set bit. */
static void negative_power(int n) {
  big five = {{1}}, rest = {{0}};
  for (int i = 0; i < n; i++) multiply(&five, 5);
  int length = bit_length(&five);
  for (int i = 0; i < length; i++) shift_in(&rest, i == 0);
  uint64_t word[2] = {0, 0};
  for (int i = 0; i < 128; i++) {
    shift_in(&rest, 0);
    word[i / 64] = word[i / 64] << 1 | (uint64_t)subtract_if_fits(&rest, &five);
  }
  print_entry(word, -n);
}

int main(void) {
  puts("/* Made by src/tools/gen_pow10.c: the leading 128 bits of powers of ten. */");
  printf("enum { POW10_FIRST = %d, POW10_LAST = %d };\n", FIRST, LAST);
  puts("static const struct {\n  uint64_t high, low;\n} pow10_table[] = {");
  for (int n = FIRST; n < 0; n++) negative_power(-n);
  for (int n = 0; n <= LAST; n++) positive_power(n);
  puts("};");
  return ferror(stdout) || fflush(stdout) != 0;
}
