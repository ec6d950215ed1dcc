// SPDX-License-Identifier: Apache-2.0
// A Scene as Python puts it together, piece by piece.
#pragma once
#include <map>
#include <string>

#include "../bind_arguments.h"
#include "scene.h"

namespace ns_diff3r {
namespace cuda {

template <class T>
struct Plan {
  Scene<T> scene{};

  Plan(int64_t num_gaussians, int num_sh_bases, int num_views, int width, int height, const py::dict& config,
       const std::map<std::string, uintptr_t>& memory) {
    scene.num_gaussians = num_gaussians;
    scene.num_views = num_views;
    scene.width = width;
    scene.height = height;
    scene.tiles_x = (width + kTile - 1) / kTile;
    scene.tiles_y = (height + kTile - 1) / kTile;
    scene.num_sh_bases = num_sh_bases;
    scene.config = config_from<T>(config);
    if (scene.tiles_x > 65535 || scene.tiles_y > 65535) throw std::invalid_argument("images are at most 1,048,560 pixels wide");
    if (scene.num_records() >= int64_t(1) << 32 || scene.num_tiles() >= int64_t(1) << 31)
      throw std::invalid_argument("too many Gaussians times views for one linearisation: 2^32 at most");
    set(memory);
  }

  void set(const std::map<std::string, uintptr_t>& memory) {
    for (const auto& [name, address] : memory) {
      if (name == "cameras") scene.cameras = pointer<const Camera<T>>(address);
      else if (name == "background") scene.background = pointer<const T>(address);
      else if (name == "records") scene.records = pointer<Record<T>>(address);
      else if (name == "flags") scene.flags = pointer<uint8_t>(address);
      else if (name == "tiles") scene.tiles = pointer<Tiles>(address);
      else if (name == "counts") scene.counts = pointer<uint32_t>(address);
      else if (name == "record_slots") scene.record_slots = pointer<uint32_t>(address);
      else if (name == "tile_offsets") scene.tile_offsets = pointer<uint32_t>(address);
      else if (name == "entries") scene.entries = pointer<Entry>(address);
      else if (name == "masks") scene.masks = pointer<uint16_t>(address);
      else if (name == "stops") scene.stops = pointer<int32_t>(address);
      else if (name == "transmittances") scene.transmittances = pointer<T>(address);
      else if (name == "contributes") scene.contributes = pointer<uint8_t>(address);
      else if (name == "origin_records") scene.origin_records = pointer<const Record<T>>(address);
      else if (name == "origin_stops") scene.origin_stops = pointer<const int32_t>(address);
      else throw std::invalid_argument("a plan has no memory named " + name);
    }
  }
};

}  // namespace cuda
}  // namespace ns_diff3r
