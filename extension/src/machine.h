/* What this process may use: memory and CPUs, the smaller of the machine's and its control group's. */
#ifndef LLM_SRC_MACHINE_H
#define LLM_SRC_MACHINE_H

extern int MachineMemoryMB(void);
extern int MachineThreads(void);

#endif
