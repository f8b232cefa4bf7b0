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
/* A new folder for checkpoint id, below pg_llm.checkpoint_dir; gone again if the transaction is undone. */
extern char *CheckpointFolderMake(int64 id, const char *model);
/* The file's folder goes when the transaction commits. False: the file is not one this database made. */
extern bool CheckpointFolderDrop(int64 id, const char *file);

/* ---- what a checkpoint holds (checkpoint_load.c) ---- */

typedef struct Saved Saved;

/* Opens it and compares its SHA-256 with the one recorded; ERROR where it is not what was saved. Inside SPI.
 */
extern Saved *SavedOpen(int64 id, const char *location, const char *format, const char *sha256);
/* The tensor of this name in the current memory context; NULL: there is none. */
extern Tensor *SavedTensor(Saved *saved, const char *name);
extern void SavedClose(Saved *saved);

#endif
