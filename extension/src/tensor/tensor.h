/*
 * The SQL type tensor: its layout in memory and on disk, and the functions that create and read values.
 */
#ifndef LLM_SRC_TENSOR_TENSOR_H
#define LLM_SRC_TENSOR_TENSOR_H

#include "postgres.h"

#include "fmgr.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "common/base.h"

/*
 * The stored form is the form in memory (varlena, EXTERNAL, alignment 4): float32, row-major, up to 8
 * dimensions, little-endian. tape_run and tape_id identify the recorded operation that produced the value; 0
 * marks a plain constant. They are not part of the value: equality and hashing ignore them.
 */
typedef struct Tensor
{
	int32 vl_len_;
	uint8 format; /* TENSOR_FORMAT */
	uint8 dtype;  /* TENSOR_FLOAT32 */
	uint8 ndim;
	uint8 flags; /* 0 */
	uint32 tape_run;
	uint32 tape_id;
	int32 dims[FLEXIBLE_ARRAY_MEMBER]; /* ndim dimensions, followed by the elements */
} Tensor;

#ifdef WORDS_BIGENDIAN
#error "tensors are stored and sent little-endian; this machine would have to swap"
#endif

#define TENSOR_FORMAT 1
#define TENSOR_FLOAT32 0
#define TENSOR_HEADER_SIZE(ndim) (offsetof(Tensor, dims) + sizeof(int32) * (size_t) (ndim))
#define TENSOR_DATA(t) ((float *) ((char *) (t) + TENSOR_HEADER_SIZE((t)->ndim)))

/* The value detoasted and aligned, possibly a copy. Rejects a value whose header is not a tensor's. */
extern Tensor *DatumGetTensor(Datum datum);
/* Only the header, checked; the elements of a large stored value are not read. */
extern Tensor *DatumGetTensorHeader(Datum datum);
/*
 * The header of a large stored value, or the whole of any other value: a function checks shapes and rejects a
 * mismatch before DatumGetTensorRest reads the elements.
 */
extern Tensor *DatumGetTensorShape(Datum datum);
extern Tensor *DatumGetTensorRest(Datum datum, Tensor *seen);
#define PG_GETARG_TENSOR(n) DatumGetTensor(PG_GETARG_DATUM(n))
#define PG_GETARG_TENSOR_SHAPE(n) DatumGetTensorShape(PG_GETARG_DATUM(n))
#define PG_GETARG_TENSOR_REST(n, seen) DatumGetTensorRest(PG_GETARG_DATUM(n), seen)
#define PG_RETURN_TENSOR(t) PG_RETURN_POINTER(t)

/* A new tensor in the current memory context, with elements uninitialised. Checks the dimensions and
 * pg_llm.memory_limit. */
extern Tensor *TensorNew(int ndim, const int *dims);
extern Tensor *TensorNewZero(int ndim, const int *dims);
extern Tensor *TensorNewFilled(int ndim, const int *dims, float value);
/* A copy of the elements that is not on the tape. */
extern Tensor *TensorCopy(const Tensor *t);
/* A scalar. Rejects a finite number larger than float32's maximum; one too small for float32 becomes 0. */
extern Tensor *TensorFromNumber(double value);
extern float FloatFromNumber(double value);

/*
 * Elements first … first + count - 1 of a value, without reading the rest of a large stored one. The result
 * may point into the value.
 */
extern const float *DatumGetTensorElements(Datum datum, const Tensor *header, int64 first, int64 count);
/* The same, copied to out. */
extern void CopyTensorElements(Datum datum, const Tensor *header, int64 first, int64 count, float *out);

/* Size in bytes of a shape's elements. Rejects negative dimensions and sizes that no SQL value can hold. */
extern Size TensorDataSize(int ndim, const int *dims);

/* Number of elements; 1 for a scalar (ndim 0). */
extern int64 TensorNumel(const Tensor *t);
/* "(2,3)" for messages; palloc'd. */
extern char *ShapeToString(int ndim, const int *dims);
#define TensorShape(t) ShapeToString((t)->ndim, (t)->dims)
/* Converts an int[] argument to dimensions: one-dimensional, no NULLs, each >= 0, at most LLM_MAX_DIMS.
 * Returns their count. */
extern int ShapeFromArray(Datum array, int *dims);
/* Converts an int[] argument of at most LLM_MAX_DIMS numbers of any sign; `what` names it in errors. Returns
 * their count. */
extern int IntsFromArray(Datum array, const char *what, int *numbers);
/* Compares the elements of two tensors of the same shape; 0 means identical bits. */
extern int TensorCompare(const Tensor *a, const Tensor *b);
/* hash_bytes_extended over whole words of 4 bytes (tensor_hash.c). */
extern uint64 HashWords(const void *data, Size size, uint64 seed);
/* Replaces every NaN by the one quiet NaN 0x7fc00000; called on each result that SQL can see. */
extern void TensorCanonicalize(Tensor *t);

/* Type modifiers: the declared shape of a column, tensor(50257,768). -1 accepts every shape. */
extern int32 TypmodFromShape(int ndim, const int *dims, LlmError *err); /* -1 and err if not representable */
extern int TypmodToShape(int32 typmod, int *dims);                      /* returns ndim */
/* True if the declared shape accepts this one; otherwise fills err. */
extern bool TypmodAccepts(int32 typmod, int ndim, const int *dims, LlmError *err);

/* A copy of the first column of SPI_tuptable's only row as a tensor; frees SPI's result. NULL if there is no
 * row or the column is NULL. */
extern Tensor *SpiTensorField(void);

#endif
