#ifndef MSADB_TESTS_DB_LOSE_GPU_H_
#define MSADB_TESTS_DB_LOSE_GPU_H_

namespace msadb::db {

// Makes `device` fail every later call of this process, as a hardware error does: runs a kernel that
// writes to no memory.
void LoseGpu(int device);

}  // namespace msadb::db

#endif  // MSADB_TESTS_DB_LOSE_GPU_H_
