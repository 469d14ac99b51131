#pragma once

namespace muster::data {

// Half-open xyxy in absolute pixels: a box as wide as the image is {0, 0, width, height}.
struct Box {
  float x1 = 0;
  float y1 = 0;
  float x2 = 0;
  float y2 = 0;

  friend bool operator==(const Box&, const Box&) = default;
};

struct Size {
  int width = 0;
  int height = 0;

  friend bool operator==(const Size&, const Size&) = default;
};

// A part of a picture, in its pixels.
struct Rect {
  int left = 0;
  int top = 0;
  Size size;

  friend bool operator==(const Rect&, const Rect&) = default;
};

// A bound of an image's longer and shorter side, in pixels.
struct Scale {
  int long_side = 0;
  int short_side = 0;

  friend bool operator==(const Scale&, const Scale&) = default;
};

}  // namespace muster::data
