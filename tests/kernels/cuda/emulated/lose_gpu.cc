#include "tests/db/lose_gpu.h"

#include "emulation.h"

namespace msadb::db {

void LoseGpu(int device) { emulated::LoseDevice(device); }

}  // namespace msadb::db
