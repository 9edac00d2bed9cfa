// YAML reader: prints the documents of each file in its arguments as a line of JSON, with the file's
// path. A file with a fault, or with a key that occurs twice, ends it.

import { readFileSync } from 'node:fs'
import { parseAllDocuments } from 'yaml'

for (const path of process.argv.slice(2)) {
  const documents = parseAllDocuments(readFileSync(path, 'utf8'))
  for (const document of documents) {
    const [fault] = [...document.errors, ...document.warnings]
    if (fault !== undefined) {
      throw new Error(`${path}: ${fault.message}`)
    }
  }
  console.log(JSON.stringify({ path, documents: documents.map((document) => document.toJS()) }))
}
