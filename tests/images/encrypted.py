# SPDX-License-Identifier: GPL-2.0-or-later
"""Encrypted images beside qemu-img: LUKS, and qcow2 with luks and aes; key slots; messages."""
import itertools
import json
import os

SECRETS = ["--object", "secret,id=s,data=open sesame", "--object",
           "secret,id=n,format=base64,data=bmV3", "--object", "secret,id=w,data=wrong"]  # fmt: skip
SIZE = 300 << 10
CIPHERS = ("aes-128 aes-192 aes-256 cast5-128 serpent-128 serpent-192 serpent-256 twofish-128"
           " twofish-256").split()  # fmt: skip
MODES = "ecb cbc xts ctr".split()
VECTORS = ["plain64", "plain", "essiv,ivgen-hash-alg=md5", "essiv,ivgen-hash-alg=sha256"]
HASHES = "sha256 md5 sha1 sha224 sha384 sha512 ripemd160".split()
QCOW2 = ["", "cluster_size=512", "cluster_size=2M", "compat=0.10", "extended_l2=on",
         "preallocation=metadata", "refcount_bits=64,cluster_size=4k", "data_file=%s.data"]  # fmt: skip


class Crypt:
    def __init__(self, suite, ours, qemu, work):
        self.run, self.result, self.step = suite
        self.ours, self.qemu, self.work = ours, qemu, work
        self.raw = os.path.join(work, "crypt.raw")
        with open(self.raw, "wb") as f:
            f.write(os.urandom(100 << 10) + bytes(100 << 10) + b"text " * (20 << 10))

    def path(self, name):
        return os.path.join(self.work, name)

    def tool(self, tool, command, *words):
        """qemu-img sometimes cannot measure how fast it is."""
        for _ in range(20):
            done = self.run(tool, command, *SECRETS, *words)
            if "accurate CPU usage" not in done[2]:
                break
        return done

    def there_and_back(self, name, format, option, opened):
        image = self.path("t." + format)
        for writer, reader in (self.ours, self.qemu), (self.qemu, self.ours):
            title = "%s: %s writes" % (name, os.path.basename(writer))
            for left in os.listdir(self.work):
                if left.startswith("t."):
                    os.unlink(self.path(left))
            code, out, err = self.tool(writer, "convert", "-O", format, "-o", option, self.raw, image)
            if code != 0 and writer == self.qemu:
                continue  # it cannot (it asserts on keys of 24 bytes but with xts)
            bad = "" if code == 0 else "convert: %d %s%s" % (code, out, err)
            opts = "driver=%s,%s,file.filename=%s" % (format, opened, image)
            for tool in (reader, writer):
                if bad or (tool == self.qemu and code == 0 and self.asserts(option)):
                    continue
                if format == "qcow2":
                    code, out, err = self.tool(tool, "check", "--image-opts", opts)
                    bad = "" if code == 0 else "%s check: %d %s%s" % (tool, code, out, err)
                code, out, err = self.tool(tool, "compare", "--image-opts",
                                           "driver=raw,file.filename=" + self.raw, opts)  # fmt: skip
                bad = bad or ("" if code == 0 else "%s: %d %s%s" % (tool, code, out, err))
            self.result(not bad, title, bad)

    @staticmethod
    def asserts(option):
        return "-192," in option and "cipher-mode=xts" not in option

    def ciphers(self):
        """Every cipher in every mode; the vectors and hashes in turn."""
        turn = 0
        for cipher, mode in itertools.product(CIPHERS, MODES):
            if cipher.startswith("cast5") and mode == "xts":
                continue
            vector = VECTORS[(turn + turn // len(MODES)) % len(VECTORS)]
            if cipher.startswith("cast5") and "sha256" in vector:
                vector = VECTORS[2]
            hash = HASHES[turn % len(HASHES)]
            turn += 1
            option = "key-secret=s,iter-time=10,cipher-alg=%s,cipher-mode=%s,ivgen-alg=%s,hash-alg=%s"
            option %= cipher, mode, vector, hash
            self.there_and_back("luks %s-%s-%s %s" % (cipher, mode, vector.replace("ivgen-hash-alg=", ""), hash),
                                "luks", option, "key-secret=s")  # fmt: skip

    def qcow2(self):
        for method, layout in itertools.product(("luks", "aes"), QCOW2):
            option = "encrypt.format=%s,encrypt.key-secret=s" % method
            if method == "luks":
                option += ",encrypt.iter-time=10"
            if layout:
                option += "," + (layout % self.path("t") if "%s" in layout else layout)
            self.there_and_back("qcow2 %s %s" % (method, layout.replace("%s.", "")), "qcow2", option,
                                "encrypt.key-secret=s")  # fmt: skip

    def chains(self):
        """A backing file with its own secret; snapshots, rebase, commit, resize."""
        base, top, plain = (self.path(n) for n in ("base.qcow2", "top.qcow2", "plain.qcow2"))
        key = "encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret="
        opts = "driver=qcow2,encrypt.key-secret=n,backing.encrypt.key-secret=s,file.filename=" + top
        full = "driver=qcow2,encrypt.key-secret=s,file.filename=" + base
        raw = "driver=raw,file.filename=" + self.raw
        O = (self.ours,)
        self.step("an encrypted overlay of an encrypted image",
                  (*O, "convert", *SECRETS, "-O", "qcow2", "-o", key + "s", self.raw, base),
                  (*O, "create", *SECRETS, "-q", "-f", "qcow2", "-o", key + "n", "-u", "-b", base,
                   "-F", "qcow2", top, str(SIZE)),
                  (*O, "compare", *SECRETS, "--image-opts", raw, opts),
                  (self.qemu, "compare", *SECRETS, "--image-opts", raw, opts))  # fmt: skip
        self.step("snapshots of an encrypted image",
                  (*O, "snapshot", *SECRETS, "-c", "one", "--image-opts", full),
                  (*O, "bench", *SECRETS, "-q", "-w", "-c", "20", "-s", "3000", "--pattern=7", "--image-opts",
                   full),
                  (self.qemu, "check", *SECRETS, "--image-opts", full),
                  (self.qemu, "snapshot", *SECRETS, "-a", "one", "--image-opts", full),
                  (*O, "compare", *SECRETS, "--image-opts", raw, full),
                  (*O, "snapshot", *SECRETS, "-d", "one", "--image-opts", full),
                  (self.qemu, "check", *SECRETS, "--image-opts", full))  # fmt: skip
        self.step("rebase to nothing, and commit into an encrypted image",
                  (*O, "rebase", *SECRETS, "-b", "", "--image-opts", opts),
                  (self.qemu, "compare", *SECRETS, "--image-opts", raw,
                   opts.replace("backing.encrypt.key-secret=s,", "")),
                  (*O, "create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", "qcow2", plain, str(SIZE)),
                  (*O, "bench", *SECRETS, "-q", "-w", "-c", "20", "-s", "3000", "--pattern=9", "--image-opts",
                   "driver=qcow2,backing.encrypt.key-secret=s,file.filename=" + plain),
                  (*O, "convert", *SECRETS, "-O", "raw", "--image-opts",
                   "driver=qcow2,backing.encrypt.key-secret=s,file.filename=" + plain, self.path("want.raw")),
                  (*O, "commit", *SECRETS, "-q", "--image-opts",
                   "driver=qcow2,backing.encrypt.key-secret=s,file.filename=" + plain),
                  (self.qemu, "compare", *SECRETS, "--image-opts",
                   "driver=raw,file.filename=" + self.path("want.raw"), full),
                  (self.qemu, "check", *SECRETS, "--image-opts", full))  # fmt: skip
        for driver, image, what in (("qcow2", base, "encrypt."), ("luks", self.path("r.luks"), "")):
            opts = "driver=%s,%skey-secret=s,file.filename=%s" % (driver, what, image)
            if driver == "luks":
                self.tool(self.ours, "create", "-q", "-f", "luks", "-o", "key-secret=s,iter-time=10", image, "1M")
            self.step("resize %s" % driver,
                      (*O, "resize", *SECRETS, "--image-opts", opts, "2M"),
                      (self.qemu, "resize", *SECRETS, "--image-opts", opts, "3M"),
                      (*O, "resize", *SECRETS, "--shrink", "--image-opts", opts, "1M"),
                      (self.qemu, "convert", *SECRETS, "-O", "raw", "--image-opts", opts, self.path("r.raw")))  # fmt: skip
            size = os.path.getsize(self.path("r.raw"))
            self.result(size == 1 << 20, "resize %s: the size" % driver, str(size))

    def slots(self):
        """Key slots that one makes open for the other; the same is refused by both."""
        for driver, prefix in ("luks", ""), ("qcow2", "encrypt."):
            image = self.path("slots." + driver)
            format = "encrypt.format=luks," if prefix else ""
            self.tool(self.ours, "create", "-q", "-f", driver, "-o",
                      "%s%skey-secret=s,%siter-time=10" % (format, prefix, prefix), image, "1M")  # fmt: skip
            opts = "driver=%s,%skey-secret=%%s,file.filename=%s" % (driver, prefix, image)
            for tool, other in (self.ours, self.qemu), (self.qemu, self.ours):
                bad = ""
                for secret, option in (("s", "state=active,new-secret=n,iter-time=100"),
                                       ("n", "state=inactive,old-secret=s"),
                                       ("n", "state=active,new-secret=s,keyslot=5,iter-time=100"),
                                       ("s", "state=inactive,old-secret=n")):  # fmt: skip
                    words = ",".join(prefix + w for w in option.split(","))
                    code, out, err = self.tool(tool, "amend", "-o", words, "--image-opts", opts % secret)
                    if code and not bad:
                        bad = "%s: %s%s" % (option, out, err)
                for reader in tool, other:
                    for secret, want in ("s", 0), ("n", 1):
                        code, out, err = self.tool(reader, "convert", "-O", "raw", "--image-opts", opts % secret,
                                                   self.path("slots.raw"))  # fmt: skip
                        if code != want and not bad:
                            bad = "%s with %s: %d %s%s" % (reader, secret, code, out, err)
                self.result(not bad, "key slots of %s by %s" % (driver, os.path.basename(tool)), bad)

    def says_the_same(self):
        os.chdir(self.work)
        for form, option in (("luks", "key-secret=s,iter-time=10"),
                             ("luks", "key-secret=s,iter-time=10,cipher-mode=cbc,ivgen-alg=essiv"),
                             ("qcow2", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
                             ("qcow2", "encryption=on,encrypt.key-secret=s")):  # fmt: skip
            name = "same%d.%s" % (option.count("=") + option.count("encryption"), form)
            self.tool(self.ours, "create", "-q", "-f", form, "-o", option, name, "1M")
        luks, qcow2, aes = "same2.luks", "same3.qcow2", "same3.aes"
        self.tool(self.ours, "create", "-q", "-f", "qcow2", "-o", "encryption=on,encrypt.key-secret=s", aes, "1M")
        bad, none = "--image-opts driver=luks,key-secret=%s,file.filename=" + luks, "luks,file.filename=" + luks
        amend = "amend --image-opts driver=luks,key-secret=s,file.filename=%s -o " % luks
        for command in (
            "info " + luks, "info --output=json " + luks, "info same4.luks", "info --output=json same4.luks",
            "info " + qcow2, "info --output=json " + qcow2, "info " + aes, "info --output=json " + aes,
            "convert -O raw %s x.raw" % luks, "convert -O raw %s x.raw" % qcow2, "check " + luks, "map " + qcow2,
            "convert -O raw %s x.raw" % (bad % "w"), "convert -O raw %s x.raw" % (bad % "zz"),
            "convert -O raw --image-opts driver=%s x.raw" % none, "check --image-opts driver=" + none,
            "snapshot -l " + qcow2,
            "create -f luks x.luks 1M", "create -f luks -o key-secret=zz x.luks 1M",
            "create -f luks -o key-secret=s,cipher-alg=rot13 x.luks 1M",
            "create -f luks -o key-secret=s,cipher-mode=x x.luks 1M",
            "create -f qcow2 -o encrypt.key-secret=s x.qcow2 1M", "create -f qcow2 -o encrypt.format=zip x.qcow2 1M",
            "create -f qcow2 -o encrypt.format=luks x.qcow2 1M", "create -f qcow2 -o encryption=on x.qcow2 1M",
            "create -f qcow2 -o encryption=on,encrypt.key-secret=s x.qcow2 1M",
            "create -f qcow2 -o encryption=on,encrypt.format=luks,encrypt.key-secret=s x.qcow2 1M",
            "convert -c -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s %s x.qcow2" % aes,
            "measure -O luks -o key-secret=s --size 1G",
            "measure -O luks -o key-secret=s,cipher-alg=aes-128 --output=json --size 1G",
            "measure -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s --size 1G",
            "measure -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s --size 1G",
            amend + "new-secret=n", amend + "state=active", amend + "state=active,new-secret=n,keyslot=0",
            amend + "state=active,new-secret=n,keyslot=9", amend + "state=active,new-secret=n,old-secret=s",
            amend + "state=inactive", amend + "state=inactive,new-secret=n", amend + "state=inactive,old-secret=w",
            amend + "state=inactive,iter-time=3,keyslot=0", amend + "state=inactive,keyslot=5",
            amend + "state=inactive,old-secret=s", amend + "state=inactive,keyslot=0", amend + "state=x,keyslot=0",
            "info --object secret,id=q x", "info --object secret,id=q,data=a,file=b x",
            "info --object secret,data=b x", "info --object secret,id=s,data=b x",
            "info --object secret,id=q,data=%%%,format=base64 x",
            "info --object secret,id=q,data=YWJj,format=base64,keyid=zz,iv=YWJj x",
            "info --object secret,id=q,data=YWJj,format=base64,keyid=s,iv=YWJj x",
            "info --object secret,id=q,data=a,colour=1 x", "info --object secret,id=q,data=a,format=hex x",
            "info --object secret,id=1q,data=a x",
        ):  # fmt: skip
            words = command.split()
            theirs, ours = self.tool(self.qemu, *words), self.tool(self.ours, *words)
            said = [ours[0], ours[1], ours[2].replace("posada-img", "qemu-img").strip()]
            meant = [theirs[0], theirs[1], theirs[2].strip()]
            if "--output=json" in command and theirs[0] == 0 and ours[0] == 0:
                said[1], meant[1] = json.loads(said[1]), json.loads(meant[1])
            self.result(said == meant, command, "posada-img: %s\nqemu-img: %s" % (said, meant))
        os.chdir("/")

    def no_plain_text(self):
        """Neither what was written nor the password is in the file."""
        text = self.path("text.raw")
        with open(text, "wb") as f:
            f.write(b"attack at dawn. " * 4096)
        for form, option in (("luks", "key-secret=s,iter-time=10"),
                             ("qcow2", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
                             ("qcow2", "encrypt.format=aes,encrypt.key-secret=s")):  # fmt: skip
            image = self.path("text." + form)
            code, out, err = self.tool(self.ours, "convert", "-O", form, "-o", option, text, image)
            with open(image, "rb") as f:
                data = f.read()
            self.result(code == 0 and b"attack" not in data and b"sesame" not in data,
                        "no plain text in %s (%s)" % (form, option.split(",")[0]), out + err)  # fmt: skip


def test(suite, ours, qemu, work):
    c = Crypt(suite, ours, qemu, work)
    c.says_the_same()
    c.slots()
    c.chains()
    c.no_plain_text()
    c.qcow2()
    c.ciphers()
