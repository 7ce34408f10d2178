/* PNG files: libpng's simplified interface does all there is to do. */
#include "picture.h"

#include <stdio.h>

#include <png.h>

int
example_write_png(const char *path, size_t width, size_t height,
                  const uint8_t *index, const example_palette palette)
{
	png_image image = {.version = PNG_IMAGE_VERSION,
	                   .width = (png_uint_32)width,
	                   .height = (png_uint_32)height,
	                   .format = PNG_FORMAT_RGB_COLORMAP,
	                   .colormap_entries = 256};

	if (!png_image_write_to_file(&image, path, 0, index, 0, palette)) {
		fprintf(stderr, "%s: %s\n", path, image.message);
		return -1;
	}
	printf("wrote %s\n", path);
	return 0;
}
