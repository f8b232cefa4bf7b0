/* Refuses SQL of another version or build than the library's; the Makefile defines both. */
#ifndef LLM_SRC_BASE_BUILD_H
#define LLM_SRC_BASE_BUILD_H

/* Raises an error if the version of the extension in this database is not the library's. */
extern void CheckVersion(const char *version);

/* Defines the setting pg_llm.build. */
extern void BuildInit(void);

#endif
