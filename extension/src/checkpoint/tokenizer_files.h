/* The files of a model's tokenizer, written into a folder. */
#ifndef LLM_SRC_CHECKPOINT_TOKENIZER_FILES_H
#define LLM_SRC_CHECKPOINT_TOKENIZER_FILES_H

/* Returns how many; 0 if the model has no tokenizer. Call inside SPI_connect, with the right to write files.
 */
extern int WriteTokenizer(const char *folder, const char *model);

#endif
