/*
 * Entry point of the module, called when the server loads the library.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "src/base/build.h"
#include "src/base/copy.h"
#include "src/base/memory.h"
#include "src/base/settings.h"
#include "src/base/versioned_cache.h"
#include "src/base/wait.h"
#include "src/checkpoint/checkpoint.h"
#include "src/tape/tape.h"

PG_MODULE_MAGIC;

void _PG_init(void);

void
_PG_init(void)
{
	MemoryInit(); /* may raise an error and so refuse to load */
	MemoryOnPressure(VersionedEvict);
	BuildInit();
	SettingsInit();
	WaitInit();
	TapeInit();
	CheckpointSettings();
	CopySettings();
	MarkGUCPrefixReserved("pg_llm");
}
