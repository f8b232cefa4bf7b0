/*
 * Checkpoints: a model's parameters and AdamW's moments as named tensors (wte.weight, optimizer.m.wte.weight,
 * optimizer.v.wte.weight), either in a file of the server or as rows of llm_checkpoint_param.
 */
#ifndef LLM_SRC_CHECKPOINT_CHECKPOINT_H
#define LLM_SRC_CHECKPOINT_CHECKPOINT_H

#include "postgres.h"

#include "src/tensor/tensor.h"

#define SAVED_M "optimizer.m."
#define SAVED_V "optimizer.v."
#define SAVED_IN_DATABASE "database"

/* ---- folders (checkpoint_folder.c) ---- */

/* Defines pg_llm.checkpoint_dir; called when the module is loaded. */
extern void CheckpointSettings(void);
/* Creates a folder for checkpoint id below pg_llm.checkpoint_dir; it is removed if the transaction is rolled
 * back. */
extern char *CheckpointFolderMake(int64 id, const char *model);
/* Removes the file's folder when the transaction commits. False if the file was not made by this database. */
extern bool CheckpointFolderDrop(int64 id, const char *file);

/* ---- contents of a checkpoint (checkpoint_load.c) ---- */

typedef struct Saved Saved;

/* Opens a checkpoint and compares its SHA-256 with the recorded one; ERROR if it differs. Call inside SPI. */
extern Saved *SavedOpen(int64 id, const char *location, const char *format, const char *sha256);
/* The tensor of this name in the current memory context; NULL if there is none. */
extern Tensor *SavedTensor(Saved *saved, const char *name);
extern void SavedClose(Saved *saved);

#endif
