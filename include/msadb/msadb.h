// Everything a program needs to embed msadb.
#ifndef MSADB_MSADB_H_
#define MSADB_MSADB_H_

#include "msadb/database.h"
#include "msadb/document.h"
#include "msadb/filter.h"
#include "msadb/options.h"
#include "msadb/query.h"
#include "msadb/status.h"
#include "msadb/transfer.h"

#endif  // MSADB_MSADB_H_
