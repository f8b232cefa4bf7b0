/* The extension's objects in the catalog, found by the extension itself and never by search_path. */
#ifndef LLM_SRC_BASE_CATALOG_H
#define LLM_SRC_BASE_CATALOG_H

#include "postgres.h"

extern Oid LlmNamespace(void);
extern Oid LlmTensorType(void);
/* The extension's schema, quoted, for SPI text. */
extern const char *LlmSchema(void);

#endif
