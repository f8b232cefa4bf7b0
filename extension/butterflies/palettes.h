/* The colours of butterflies, red, green and blue from 0 to 255. */
#ifndef LLM_BUTTERFLIES_PALETTES_H
#define LLM_BUTTERFLIES_PALETTES_H

#include "butterflies/butterfly.h"
#include "butterflies/canvas.h"

/* The samples' inks, in the order of a palette's colours. */
enum
{
	INK_GROUND, /* behind the butterfly */
	INK_FORE,   /* base of the forewing */
	INK_HIND,   /* base of the hindwing */
	INK_MARGIN, /* dark: margin, veins, rings */
	INK_ACCENT, /* pale: dots, bands, spots */
	INK_HEART,  /* second accent, inside eyes */
	INK_BODY
};

#define GROUND 226, 236, 240
#define BODY 46, 34, 38

/* In the order of llm_butterfly_palette_names. */
static const uint8_t PALETTES[LLM_BUTTERFLY_PALETTES][CANVAS_INKS][3] = {
	{{GROUND}, {238, 112, 20}, {250, 158, 44}, {50, 24, 18}, {255, 244, 222}, {255, 222, 120}, {BODY}},
	{{GROUND}, {24, 96, 224}, {40, 176, 246}, {14, 22, 76}, {200, 246, 255}, {255, 255, 255}, {BODY}},
	{{GROUND}, {252, 222, 40}, {222, 232, 84}, {98, 116, 22}, {255, 140, 26}, {228, 70, 20}, {BODY}},
	{{GROUND}, {168, 30, 44}, {206, 66, 48}, {48, 16, 36}, {250, 204, 92}, {70, 120, 220}, {BODY}},
	{{GROUND}, {252, 234, 164}, {246, 214, 116}, {30, 30, 44}, {64, 122, 220}, {222, 66, 46}, {BODY}},
	{{GROUND}, {16, 148, 84}, {96, 204, 96}, {8, 58, 56}, {246, 234, 130}, {255, 255, 230}, {BODY}},
	{{GROUND}, {118, 58, 190}, {168, 112, 230}, {44, 18, 88}, {255, 204, 236}, {255, 240, 150}, {BODY}},
	{{GROUND}, {240, 108, 152}, {252, 168, 180}, {126, 22, 70}, {255, 246, 238}, {255, 214, 90}, {BODY}},
};

#endif
