/*
 * Counts how often each translated block of a guest runs between marks. A QEMU TCG plug-in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 * Copyright (C) 2026 the EdgeDistill authors
 *
 * This file alone is free software under the GNU General Public License, version 2 or (at your option) any later
 * version, as the emulator that loads it is. It comes WITHOUT ANY WARRANTY. It is compiled on the user's machine,
 * and linked with no other part of EdgeDistill.
 *
 * The guest marks a region by prctl(0x4544, k), which no kernel knows and every kernel refuses:
 *   k = 1          counting starts anew
 *   1 < k < 0x100  the counts since the last mark go to OUT.k; counting starts anew
 *   k >= 0x100     this process's /proc/self/smaps goes to OUT.k: the guest's resident memory is in it
 * Arguments: out=PATH [l1=KIB:WAYS l2=KIB:WAYS] (both: loads and stores also pass a model of two caches, LRU, lines
 * of 64 bytes). The counters are not atomic: one guest thread.
 *
 * QEMU's distributions ship no header for plug-ins, so that the part of the interface used here (version 1) is
 * declared by hand.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct {
    const char *target_name;
    struct {
        int min, cur;
    } version;
    bool system_emulation;
    union {
        struct {
            int smp_vcpus, max_vcpus;
        } system;
    };
} qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*mem_cb)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *);
typedef void (*syscall_cb)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int op, void *counter, uint64_t add);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, mem_cb, int flags, int rw, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_cb);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
extern char *qemu_plugin_insn_disas(const struct qemu_plugin_insn *);
extern unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

enum { MARK = 0x4544, PRCTL_A64 = 167, PRCTL_A32 = 172, SNAPSHOT = 0x100, LINE_SHIFT = 6, READ_WRITE = 3 };

typedef struct Block {
    uint64_t runs, address;
    char *text; /* opcode words in hexadecimal, or mnemonics where the encoding alone does not tell */
    struct Block *next;
} Block;

typedef struct {
    uint64_t sets, ways, *line, *age, misses;
} Cache;

static Block *blocks;
static bool a32, modelled;
static Cache l1, l2;
static uint64_t now, accesses;
static char out[4096];

static void cache_init(Cache *cache, uint64_t kib, uint64_t ways)
{
    cache->ways = ways;
    cache->sets = (kib << 10 >> LINE_SHIFT) / ways;
    cache->line = malloc(8 * cache->sets * ways);
    cache->age = calloc(cache->sets * ways, 8);
    memset(cache->line, 0xff, 8 * cache->sets * ways);
}

static bool cache_hit(Cache *cache, uint64_t line)
{
    uint64_t *lines = cache->line + line % cache->sets * cache->ways;
    uint64_t *ages = cache->age + (lines - cache->line);
    uint64_t oldest = 0;
    for (uint64_t way = 0; way < cache->ways; way++) {
        if (lines[way] == line) {
            ages[way] = ++now;
            return true;
        }
        if (ages[way] < ages[oldest]) {
            oldest = way;
        }
    }
    lines[oldest] = line;
    ages[oldest] = ++now;
    cache->misses++;
    return false;
}

static void on_access(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
    uint64_t last = (address + (1u << qemu_plugin_mem_size_shift(info)) - 1) >> LINE_SHIFT;
    for (uint64_t line = address >> LINE_SHIFT; line <= last; line++) {
        accesses++;
        if (!cache_hit(&l1, line)) {
            cache_hit(&l2, line);
        }
    }
}

static char *words_of(struct qemu_plugin_tb *tb, size_t count)
{
    char *text = malloc(8 * count + 1), *end = text;
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), 4);
        end += sprintf(end, "%08" PRIx32, word);
    }
    return text;
}

static char *mnemonics_of(struct qemu_plugin_tb *tb, size_t count)
{
    char *text = malloc(24 * count + 1), *end = text;
    for (size_t i = 0; i < count; i++) {
        char *told = qemu_plugin_insn_disas(qemu_plugin_tb_get_insn(tb, i));
        char name[20] = "?";
        if (told) {
            sscanf(told, "%19s", name);
            free(told);
        }
        end += sprintf(end, i ? ";%s" : "%s", name);
    }
    return text;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t count = qemu_plugin_tb_n_insns(tb);
    Block *block = calloc(1, sizeof *block);
    block->address = qemu_plugin_tb_vaddr(tb);
    block->text = a32 ? mnemonics_of(tb, count) : words_of(tb, count);
    block->next = blocks;
    blocks = block;
    for (size_t i = 0; modelled && i < count; i++) {
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_access, 0, READ_WRITE, NULL);
    }
    qemu_plugin_register_vcpu_tb_exec_inline(tb, 0, &block->runs, 1);
}

static FILE *open_mark(uint64_t mark)
{
    char path[sizeof out + 32];
    snprintf(path, sizeof path, "%s.%" PRIu64, out, mark);
    return fopen(path, "w");
}

static void write_counts(uint64_t mark)
{
    FILE *file = open_mark(mark);
    if (!file) {
        return;
    }
    if (modelled) {
        fprintf(file, "cache %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", accesses, l1.misses, l2.misses);
    }
    for (Block *block = blocks; block; block = block->next) {
        if (block->runs) {
            fprintf(file, "%" PRIx64 " %" PRIu64 " %s\n", block->address, block->runs, block->text);
        }
    }
    fputs("end\n", file);
    fclose(file);
}

static void start_anew(void)
{
    for (Block *block = blocks; block; block = block->next) {
        block->runs = 0;
    }
    accesses = l1.misses = l2.misses = 0;
}

static void write_memory(uint64_t mark)
{
    char line[8192];
    FILE *from = fopen("/proc/self/smaps", "r"), *to = open_mark(mark);
    while (from && to && fgets(line, sizeof line, from)) {
        fputs(line, to);
    }
    if (from) {
        fclose(from);
    }
    if (to) {
        fclose(to);
    }
}

static void on_syscall(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t option, uint64_t mark, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    if (number != (a32 ? PRCTL_A32 : PRCTL_A64) || option != MARK) {
        return;
    }
    if (mark >= SNAPSHOT) {
        write_memory(mark);
        return;
    }
    if (mark > 1) {
        write_counts(mark);
    }
    start_anew();
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    uint64_t kib, ways, given = 0;
    a32 = !strcmp(info->target_name, "arm");
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) {
            snprintf(out, sizeof out, "%s", argv[i] + 4);
        } else if (sscanf(argv[i], "l1=%" SCNu64 ":%" SCNu64, &kib, &ways) == 2) {
            cache_init(&l1, kib, ways);
            given |= 1;
        } else if (sscanf(argv[i], "l2=%" SCNu64 ":%" SCNu64, &kib, &ways) == 2) {
            cache_init(&l2, kib, ways);
            given |= 2;
        }
    }
    modelled = given == 3;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return out[0] ? 0 : 1;
}
