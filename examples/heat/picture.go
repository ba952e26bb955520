package main

import (
	"image"
	"image/color"
	"image/png"
	"os"
	"slices"
)

// glow are the colours of a field from its coldest to its hottest, as those of a body
// that is heated: black, red, yellow, white.
func glow() color.Palette {
	p := make(color.Palette, 256)
	ramp := func(x int) uint8 { return uint8(min(max(x, 0), 255)) }
	for i := range p {
		p[i] = color.RGBA{ramp(3 * i), ramp(3*i - 255), ramp(3*i - 510), 255}
	}
	return p
}

// writePNG writes a square field as a picture, a cell a pixel.
func writePNG(file string, field []float64, size int) (err error) {
	img := image.NewPaletted(image.Rect(0, 0, size, size), glow())
	low, high := slices.Min(field), slices.Max(field)
	if high == low {
		high++
	}
	for i, u := range field {
		img.Pix[i] = uint8(255 * (u - low) / (high - low))
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	return png.Encode(f, img)
}
