/* Looks up the extension's objects in the catalog through the extension itself, never through search_path. */
#ifndef LLM_SRC_BASE_CATALOG_H
#define LLM_SRC_BASE_CATALOG_H

#include "postgres.h"

extern Oid ExtensionNamespace(void);
extern Oid TensorTypeOid(void);
/* The extension's schema, quoted, for SPI text. */
extern const char *ExtensionSchemaName(void);
/* This database as an option of pg-llm's commands, for hints. */
extern const char *DatabaseOption(void);

#endif
