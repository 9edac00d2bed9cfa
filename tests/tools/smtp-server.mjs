// SMTP server with STARTTLS and a login: parses each mail. Arguments: files of the certificate and
// of its key, user name, password. Prints its port, then one line of JSON for each mail.

import { readFileSync } from 'node:fs'
import PostalMime from 'postal-mime'
import { SMTPServer } from 'smtp-server'

const [certificate, key, username, password] = process.argv.slice(2)
const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`)

const server = new SMTPServer({
  cert: readFileSync(certificate),
  key: readFileSync(key),
  authMethods: ['PLAIN', 'LOGIN'],
  onAuth(login, _session, callback) {
    const isRight = login.username === username && login.password === password
    callback(isRight ? null : new Error('wrong user name or password'), { user: login.username })
  },
  async onData(stream, session, callback) {
    const parts = []
    for await (const part of stream) parts.push(part)
    const raw = Buffer.concat(parts)
    const { headers, subject, text, html, messageId, from } = await PostalMime.parse(raw)
    const { secure, user, envelope } = session
    print({ headers, subject, text, html, messageId, from, secure, user, to: envelope.rcptTo })
    callback()
  },
})
server.on('error', (error) => process.stderr.write(`${error.message}\n`))
server.listen(0, '127.0.0.1', () => print({ port: server.server.address().port }))
