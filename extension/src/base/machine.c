/*
 * Memory and CPUs of the machine or the control group (v2, then v1). Binder and classrooms grant one CPU and
 * 2 GB of a large node: using the node's totals would oversubscribe both.
 */
#include "postgres.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "src/base/machine.h"

/* Huge pages are 2 MB on x86 and on most other machines; smaller blocks are not worth a system call. */
#define HUGE_PAGE ((uintptr_t) 2 << 20)

/*
 * Reads the first two numbers of a small file; "max" does not count as a number. Returns how many were read.
 */
static int
ReadNumbers(const char *path, long long *a, long long *b)
{
	FILE *file = fopen(path, "r");
	int n;

	if (file == NULL)
		return 0;
	n = fscanf(file, "%lld %lld", a, b);
	fclose(file);
	return n < 0 ? 0 : n;
}

int
MachineMemoryMB(void)
{
	long long bytes = (long long) sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
	long long limit, unused;

	if (ReadNumbers("/sys/fs/cgroup/memory.max", &limit, &unused) > 0 ||
		ReadNumbers("/sys/fs/cgroup/memory/memory.limit_in_bytes", &limit, &unused) > 0)
		bytes = Min(bytes, limit);
	return (int) Max(64, Min(bytes >> 20, INT_MAX));
}

int
MachineThreads(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	long long quota, period, unused;
#ifdef __linux__
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		cpus = CPU_COUNT(&set);
#endif
	if (ReadNumbers("/sys/fs/cgroup/cpu.max", &quota, &period) == 2 ||
		(ReadNumbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota, &unused) == 1 &&
			ReadNumbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period, &unused) == 1))
		if (quota > 0 && period > 0)
			cpus = Min(cpus, (quota + period - 1) / period);
	return (int) Max(1, cpus);
}

void
MachineHugePages(void *block, size_t size)
{
#ifdef MADV_HUGEPAGE
	uintptr_t from = ((uintptr_t) block + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
	uintptr_t to = ((uintptr_t) block + size) / HUGE_PAGE * HUGE_PAGE;

	if (size >= 2 * HUGE_PAGE && to > from)
		(void) madvise((void *) from, to - from, MADV_HUGEPAGE); /* a hint: failure costs only speed */
#endif
}

size_t
MachineOwnMemory(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	long long resident = 0, shared = 0;

	if (file == NULL)
		return 0;
	if (fscanf(file, "%*s %lld %lld", &resident, &shared) != 2)
		resident = shared = 0;
	fclose(file);
	return (size_t) Max(0, resident - shared) * sysconf(_SC_PAGESIZE);
}

void
MachineTrim(void)
{
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}
