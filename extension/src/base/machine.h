/* Resources this process may use (memory and CPUs: the smaller of the machine's and its control group's), and
 * hints to the kernel about large blocks. */
#ifndef LLM_SRC_BASE_MACHINE_H
#define LLM_SRC_BASE_MACHINE_H

extern int MachineMemoryMB(void);
extern int MachineThreads(void);

/* Call before the first write to a large block: the kernel may then back it with huge pages, which cause far
 * fewer page faults. */
extern void MachineHugePages(void *block, size_t size);

/* Bytes resident for this process alone; 0 if the system does not report them. */
extern size_t MachineOwnMemory(void);
/* Returns freed memory that malloc still holds to the system. */
extern void MachineTrim(void);

#endif
