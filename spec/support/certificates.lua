--- Throw-away certificates, made with the openssl command in a folder of their own.
local process = require "support.process"

local certificates = {}

local quote = process.quote

-- A certificate of our own authority; the name of a host is only taken from the alternative names. `openssl ca` makes
-- expired ones in all of OpenSSL 3: `x509 -days -1` ended with 3.5, and `x509 -not_after` came with 3.4.
local ISSUE = [[
cd %s &&
printf %%s %s >ca.cnf && touch index &&
openssl ecparam -name prime256v1 -genkey -noout -out %s.key &&
openssl req -new -key %s.key -subj %s -out %s.csr &&
printf 'subjectAltName=%%s' %s >%s.ext &&
openssl ca -batch -notext -config ca.cnf -in %s.csr -cert %s.pem -keyfile %s.key -startdate %s -enddate %s \
  -extfile %s.ext -out %s.pem && echo made
]]

local CA = [[
[ca]
default_ca = throw_away
[throw_away]
database = index
new_certs_dir = .
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
[any]
commonName = supplied
]]

local AUTHORITY = [[
cd %s &&
openssl ecparam -name prime256v1 -genkey -noout -out %s.key &&
openssl req -x509 -new -key %s.key -days 2 -subj %s -addext subjectAltName=%s -out %s.pem && echo made
]]

local Folder = {}
Folder.__index = Folder

local function run(script)
  local output = process.shell(script)
  assert(output:find("made\n$"), output)
end

function Folder:path(name)
  return self.folder .. "/" .. name
end

--- Makes one that has signed itself: an authority, or a server that nobody vouches for.
--- Returns it in the form that integrations.emulator.server takes.
function Folder:self_signed(name, alternative_names)
  run(AUTHORITY:format(quote(self.folder), name, name, quote("/CN=Throw-away " .. name),
    alternative_names or "DNS:authority.invalid", name))
  return { certificate = self:path(name .. ".pem"), key = self:path(name .. ".key") }
end

local function days_from_now(days)
  return os.date("!%Y%m%d%H%M%SZ", os.time() + days * 86400)
end

---@param options { authority: string, subject: string?, names: string, days: integer? } -1: expired yesterday
function Folder:issue(name, options)
  run(ISSUE:format(quote(self.folder), quote(CA), name, name, quote("/CN=" .. (options.subject or "server")), name,
    quote(options.names), name, name, options.authority, options.authority, days_from_now(-2),
    days_from_now(options.days or 2), name, name))
  return { certificate = self:path(name .. ".pem"), key = self:path(name .. ".key") }
end

function Folder:remove()
  process.remove_folder(self.folder)
end

function certificates.new()
  return setmetatable({ folder = process.new_folder() }, Folder)
end

return certificates
