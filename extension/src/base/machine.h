/* What this process may use: memory and CPUs, the smaller of the machine's and its control group's; and how
 * it asks for large blocks. */
#ifndef LLM_SRC_BASE_MACHINE_H
#define LLM_SRC_BASE_MACHINE_H

extern int MachineMemoryMB(void);
extern int MachineThreads(void);

/* A large block, not written to yet: the kernel may give it huge pages, which cost a fraction of the faults.
 */
extern void MachineHugePages(void *block, size_t size);

/* Bytes that are in memory for this process alone; 0: the system does not tell. */
extern size_t MachineOwnMemory(void);
/* Gives back what malloc keeps of freed memory. */
extern void MachineTrim(void);

#endif
