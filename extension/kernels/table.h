/* The table of one instruction set; the including file sets LLM_W, LLM_TABLE and LLM_NAME. */
#include "kernels/backward.h"
#include "kernels/matmul.h"
#include "kernels/optimizer.h"
#include "kernels/peak.h"
#include "kernels/quantized.h"
#include "kernels/rows.h"
#include "kernels/select.h"

const LlmKernels LLM_TABLE = {
	.name = LLM_NAME,
	.tile_rows = LLM_MR,
	.pack_rows = pack_rows,
	.matmul_block = matmul_block,
	.matmul_block_next = matmul_block_next,
	.matmul_triangle = matmul_triangle,
	.matvec_block = matvec_block,
	.pack_panel = pack_panel,
	.pack_panel_transposed = pack_panel_transposed,
	.matmul_gathered = matmul_gathered,
	.matmul_taps = matmul_taps,
	.unary = unary,
	.binary = binary,
	.select = select_elements,
	.clamp = clamp,
	.clamp_backward = clamp_backward,
	.steps = steps,
	.sum = sum,
	.sum_squares = sum_squares,
	.sum_rows = sum_rows,
	.max = max,
	.softmax = softmax,
	.cross_entropy = cross_entropy,
	.layernorm = layernorm,
	.normalize = normalize,
	.pack_columns = pack_columns,
	.unary_backward = unary_backward,
	.dot = dot,
	.softmax_backward = softmax_backward,
	.cross_entropy_backward = cross_entropy_backward,
	.layernorm_backward = layernorm_backward,
	.layernorm_sums = layernorm_sums,
	.layernorm_dx = layernorm_dx,
	.layernorm_backward_params = layernorm_backward_params,
	.adamw = adamw,
	.burst_fma = burst_fma,
	.burst_read = burst_read,
	.canonicalize = canonical_nan,
	.widen = {NULL, widen_bf16, widen_int8},
	.matvec = {NULL, matvec_bf16, matvec_int8},
};
